"""A clone of Postgres that was given another Redis: it looks like Postgres after a crash, and must publish nothing.

A base backup, a snapshot of a disk and a promoted standby have the identity of the cluster that they were made from.
What tells them is Redis: its address, or the timeline of Postgres, is not known, and it holds none of the entries.
"""

from dispatcher.core.errors import Unreachable
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.sqlfiles import load

CLONE = (
    "this outbox is a copy: Postgres was started from a backup or as a promoted standby, and this is another Redis "
    "than the known ones, with none of their entries. Nothing is claimed. If this is where its events go from now on: "
    "`dispatcher accept-copy`"
)


async def refuse_clone(fetch: Fetch, connection: RedisConnection, deadline_s: float) -> None:
    """Raise Unreachable until a person has said `dispatcher accept-copy`."""
    parameters = {"streams": list(connection.streams), "address": connection.address}
    rows = await fetch(load("stream_elsewhere"), parameters)
    if not rows or any(unbroken or known for _, unbroken, known, _ in rows):
        return
    asked = [(stream, each) for stream, _, _, ids in rows for each in ids if each != "0-0"]
    found = await connection.send([("XRANGE", stream, each, each, "COUNT", "1") for stream, each in asked], deadline_s)
    if not any(isinstance(entries, list) and entries for entries in found):
        raise Unreachable(CLONE)
