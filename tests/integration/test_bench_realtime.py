"""`python -m bench realtime`, small: what it counts through a killed dispatcher and a restart of the gateway."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.readme import ROOT

SMALL = ("--sockets", "8", "--rooms", "2", "--rate", "20", "--seconds", "3", "--warm-up", "0", "--faults-only")


def test_none_is_missed_and_none_comes_twice(tmp_path: Path, database_url: str, redis_url: str) -> None:
    servers = ("--database-url", database_url, "--redis-url", redis_url)
    command = [sys.executable, "-m", "bench", "realtime", *SMALL, *servers, "--reports", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=280, check=False)
    [report] = tmp_path.glob("*.json")
    [leg] = json.loads(report.read_text())["raw"]
    assert leg["happened"] == "a dispatcher killed, the gateway restarted"
    found = [leg[name] for name in ("committed", "received", "lost", "duplicated")]
    assert found == [60, 240, 0, 0], done.stderr
