"""`python -m bench realtime`, small: what it counts through a killed dispatcher and a restart of the gateway."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.readme import ROOT

SMALL = ("--sockets", "20", "--rooms", "4", "--rate", "40", "--seconds", "3", "--warm-up", "1")


def test_none_is_missed_and_none_comes_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "realtime", *SMALL, "--reports", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=280, check=False)
    [report] = tmp_path.glob("*.json")
    found = json.loads(report.read_text())["raw"]
    assert [(leg["committed"], leg["lost"], leg["duplicated"]) for leg in found] == [(160, 0, 0)] * 2, done.stderr
    assert [leg["received"] for leg in found] == [800, 800]
