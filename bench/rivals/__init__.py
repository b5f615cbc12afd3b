"""Peers that do the same relay work: row to XADD, then marked done. `python -m bench.rivals <name>` runs one in Python.

A module each, with `INSTALLED` (its distribution) or `PACKAGE` (on npm: see node.py, js/), `CHANGES` (what was set,
after its own documentation), `prepare(url)` (its tables), `insert()` (the SQL its producer runs for one event, $1 to $6
as in `demo.messages.COLUMNS`), `FILL` (a backlog), `LEFT` (how much is left to do), `EMPTY`, and what relays until
SIGTERM: `relay(url, redis_url, stream)`, or `command()` with `JOBS` (at once) in its environment.
"""

import sys
from importlib.metadata import version
from typing import Any

from bench.rivals import faststream_outbox, graphile_worker, node, pg_boss, pgqueuer, procrastinate

RIVALS: dict[str, Any] = {
    "graphile-worker": graphile_worker,
    "pg-boss": pg_boss,
    "PgQueuer": pgqueuer,
    "faststream-outbox": faststream_outbox,
    "procrastinate": procrastinate,
}


def version_of(rival: Any) -> str:
    """The installed version. Raises PackageNotFoundError."""
    return node.version(rival.PACKAGE) if hasattr(rival, "PACKAGE") else version(rival.INSTALLED)


def command_of(name: str) -> tuple[str, ...]:
    """What relays until SIGTERM."""
    rival = RIVALS[name]
    return rival.command() if hasattr(rival, "PACKAGE") else (sys.executable, "-m", "bench.rivals", name)


def settings_of(rival: Any) -> dict[str, str]:
    """What it has in its environment beside the addresses."""
    return {"BENCH_NODE_FOLDER": str(node.FOLDER), "JOBS": str(rival.JOBS)} if hasattr(rival, "PACKAGE") else {}
