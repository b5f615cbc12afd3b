"""`python -m bench techniques`, small: each technique can be switched off, and all events go out without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import without
from dispatcher.relay import cursor
from tests.support.readme import ROOT

SMALL = ("--rows", "1000", "--rounds", "1")


def test_all_events_go_out_without_each_of_them(tmp_path: Path, database_url: str, redis_url: str) -> None:
    servers = ("--database-url", database_url, "--redis-url", redis_url)
    command = [sys.executable, "-m", "bench", "techniques", *SMALL, *servers, "--reports", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [report] = tmp_path.glob("*.json")
    legs = json.loads(report.read_text())["raw"]
    assert list(legs) == ["", "held", *without.TECHNIQUES]
    assert {name: [leg["lost"] for leg in each] for name, each in legs.items()} == {name: [0] for name in legs}


def test_a_technique_whose_place_has_another_name_by_now_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cursor, "last_index_key")
    with pytest.raises(AttributeError, match="last_index_key"):
        without.TECHNIQUES["cursor"].off()
