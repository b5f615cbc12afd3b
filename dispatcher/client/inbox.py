"""The inbox: remembers event_id in the transaction that does the work, in the consumer's own database.

Both are committed or neither, so work in that database is done once, however often its event is delivered: a second
transaction with the same event waits for the first, and then sees that it is done. Work elsewhere (a mail, an HTTP
call) is not part of the transaction and may happen again after a crash.
"""

import uuid
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from dispatcher.client.event import handled
from dispatcher.client.outbox import require, require_transaction, require_transaction_async
from dispatcher.infra import sqlfiles


def create_table(connection: psycopg.Connection[Any]) -> None:
    """Create `handled_event` (sql/client/handled_event.sql) where the search_path says, if it is not there.

    Where it is there, this takes no lock and needs no right, so every process may call it at its start.
    """
    require(connection, "create_table", asynchronous=False)
    with connection.transaction(), _cursor(connection) as cursor:
        cursor.execute("SELECT to_regclass('handled_event') IS NOT NULL")
        if cursor.fetchone() != (True,):
            cursor.execute(sqlfiles.client("handled_event"))


async def create_table_async(connection: psycopg.AsyncConnection[Any]) -> None:
    """The same on an AsyncConnection."""
    require(connection, "create_table", asynchronous=True)
    async with connection.transaction(), psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT to_regclass('handled_event') IS NOT NULL")
        if await cursor.fetchone() != (True,):
            await cursor.execute(sqlfiles.client("handled_event"))


def first_time(connection: psycopg.Connection[Any], consumer: str, event_id: uuid.UUID) -> bool:
    """Whether this consumer has not handled the event. Remembered with the commit, forgotten with a rollback.

    `consumer` names what is done with the event, usually the group. Raises NoTransaction outside a transaction.
    """
    require(connection, "first_time", asynchronous=False)
    require_transaction(connection)
    with _cursor(connection) as cursor:
        cursor.execute(sqlfiles.client("first_time"), handled(consumer, event_id))
        return cursor.fetchone() is not None


async def first_time_async(connection: psycopg.AsyncConnection[Any], consumer: str, event_id: uuid.UUID) -> bool:
    """The same on an AsyncConnection."""
    require(connection, "first_time", asynchronous=True)
    await require_transaction_async(connection)
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(sqlfiles.client("first_time"), handled(consumer, event_id))
        return await cursor.fetchone() is not None


def forget(connection: psycopg.Connection[Any], older_than: timedelta, limit: int = 10_000) -> int:
    """Forget up to `limit` events that were handled longer ago; returns how many. Repeat while it is `limit`.

    A forgotten event that is delivered again is done again: keep them longer than the stream, the outbox and its
    dead-letter queue keep an event (30 days, with the defaults).
    """
    require(connection, "forget", asynchronous=False)
    with _cursor(connection) as cursor:
        cursor.execute(sqlfiles.client("forget"), {"older_than": older_than, "limit": limit})
        [deleted] = cursor.fetchone() or (0,)
        return int(deleted)


async def forget_async(connection: psycopg.AsyncConnection[Any], older_than: timedelta, limit: int = 10_000) -> int:
    """The same on an AsyncConnection."""
    require(connection, "forget", asynchronous=True)
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(sqlfiles.client("forget"), {"older_than": older_than, "limit": limit})
        [deleted] = await cursor.fetchone() or (0,)
        return int(deleted)


def _cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    """A plain cursor, whatever the connection's own makes of rows."""
    return psycopg.Cursor(connection, row_factory=tuple_row)
