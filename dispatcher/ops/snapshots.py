"""Reads who holds the oldest snapshot of the database."""

from dispatcher.core.process_state import SnapshotHolder
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load


async def read_snapshot(fetch: Fetch) -> SnapshotHolder | None:
    """None: nobody does. Raises SessionLost or psycopg.Error."""
    found = await fetch(load("doctor_snapshots"), None)
    return SnapshotHolder(*found[0]) if found else None
