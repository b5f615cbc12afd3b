"""The business part: a message and its event are inserted in one transaction; a room's messages are read."""

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
from dispatcher.client import Event
from dispatcher.client.asyncpg import add_event

SCHEMA = Path(__file__).with_name("schema.sql")
EVENT_TYPE, AGGREGATE_TYPE = "message.posted", "room"
LONGEST = {"room": 40, "author": 40, "body": 4_000}
PAGE = 50
# Locks the room until the commit, so that the numbers of a room have no hole and the order of its commits.
NUMBER = """
INSERT INTO room (name, last_number) VALUES ($1, 1)
ON CONFLICT (name) DO UPDATE SET last_number = room.last_number + 1
RETURNING last_number"""
INSERT = """
INSERT INTO message (room, number, key, author, body) VALUES ($1, $2, $3, $4, $5)
RETURNING number, key, author, body, posted_at"""
KNOWN = "SELECT number FROM message WHERE key = $1"
SLOT = "SELECT hashtextextended($1, 0) & 255"
READ = """
SELECT number, key, author, body, posted_at FROM message
WHERE room = $1 AND number < $2 ORDER BY number DESC LIMIT $3"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A message as browsers get it: in the event's payload, and when a room is read."""

    number: int
    key: uuid.UUID
    author: str
    body: str
    posted_at: datetime

    def plain(self) -> dict[str, Any]:
        """For JSON, with the same names as in the event."""
        return asdict(self) | {"key": str(self.key), "posted_at": self.posted_at.isoformat()}


async def create_tables(pool: "asyncpg.Pool[Any]") -> None:
    """Make the tables, if they are not there."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('chat schema'))")  # several gateways may start
        await connection.execute(SCHEMA.read_text())


async def post(pool: "asyncpg.Pool[Any]", room: str, key: uuid.UUID, author: str, body: str) -> int:
    """Insert a message and its event, both or neither; its number. The same `key` again inserts nothing."""
    async with pool.acquire() as connection:
        if (number := await connection.fetchval(KNOWN, key)) is not None:
            return int(number)
        try:
            async with connection.transaction():
                number = await connection.fetchval(NUMBER, room)
                row = await connection.fetchrow(INSERT, room, number, key, author, body)
                event = Event(
                    event_type=EVENT_TYPE, aggregate_type=AGGREGATE_TYPE, aggregate_id=room, payload=Posted(**row)
                )
                await add_event(connection, event)
        except asyncpg.UniqueViolationError:  # sent twice at the same moment: the other one has just committed it
            number = await connection.fetchval(KNOWN, key)
            if number is None:
                raise
        return int(number)


async def read(pool: "asyncpg.Pool[Any]", room: str, *, before: int = 2**62, count: int = PAGE) -> list[Posted]:
    """The last `count` messages of the room whose number is below `before`, oldest first."""
    rows = await pool.fetch(READ, room, before, count)
    return [Posted(**row) for row in reversed(rows)]


async def slot_of(pool: "asyncpg.Pool[Any]", room: str) -> int:
    """0 to 255: with shards, the dispatcher puts all events of a room into the key that has this slot."""
    return int(await pool.fetchval(SLOT, room))
