"""`dispatcher demo --order`, and how it counts what came out of order."""

import json
import subprocess
import sys

from dispatcher.demo.order import count_overtaken

PLACES = {b"a": ("one", 1), b"b": ("one", 2), b"c": ("one", 3), b"x": ("other", 1)}


def test_nothing_is_out_of_order_lost_or_doubled() -> None:
    command = [sys.executable, "-m", "dispatcher", "demo", "--order", "--rate", "50", "--seconds", "6", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["out_of_order"], found["lost"], found["doubled"], found["sent"]) == (0, 0, 0, 300)
    assert [change.split(" ")[0] for change in found["changes"]] == ["killed", "stopped", "a"]
    assert found["verdict"] == "met"


def test_an_event_behind_a_later_one_is_counted_once() -> None:
    assert count_overtaken([b"a", b"x", b"b", b"c"], PLACES) == 0
    assert count_overtaken([b"b", b"a", b"c"], PLACES) == 1
    assert count_overtaken([b"c", b"a", b"b"], PLACES) == 2
    # What comes again is no disorder, and what nobody committed has no place.
    assert count_overtaken([b"a", b"b", b"a", b"unknown", b"c"], PLACES) == 0
