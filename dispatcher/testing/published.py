"""What the open transaction of a test added to the outbox, whichever library it is of."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from dispatcher.client.event import NoTransaction
from dispatcher.client.received import Received, receive
from dispatcher.client.statements import named, statement, wrong

_WANTED = "a connection of psycopg, a Session or Connection of SQLAlchemy, or Django's connection"
_WANTED_ASYNC = "an AsyncConnection of psycopg, a connection of asyncpg, or an AsyncSession of SQLAlchemy"


def published(connection: Any) -> list[Received]:
    """The events that the transaction which is open on it added, in that order: they go out when it commits.

    `connection`: of psycopg, a SQLAlchemy Session or Connection, or Django's. What a savepoint added that was rolled
    back is not in it. Raises NoTransaction where none is open: what was committed is there for relay_once.
    """
    if _is(connection, "psycopg", "Connection"):
        from psycopg.rows import tuple_row

        from dispatcher.client import outbox

        _require(not connection.autocommit or connection.info.transaction_status != outbox.IDLE)
        with sys.modules["psycopg"].Cursor(connection, row_factory=tuple_row) as cursor:
            return _events(cursor.execute(statement("published")).fetchall())
    if _is(connection, "sqlalchemy.orm", "Session", "scoped_session") or _is(connection, "sqlalchemy", "Connection"):
        return _of_sqlalchemy(connection)
    if _is(connection, "django.utils.connection", "ConnectionProxy") or hasattr(connection, "atomic_blocks"):
        _require(not connection.get_autocommit())
        with connection.cursor() as cursor:
            cursor.execute(statement("published"))
            return _events(cursor.fetchall())
    raise wrong("published", connection, _WANTED)


async def published_async(connection: Any) -> list[Received]:
    """The same for a psycopg.AsyncConnection, a connection of asyncpg, or an AsyncSession or AsyncConnection."""
    if _is(connection, "psycopg", "AsyncConnection"):
        from psycopg.rows import tuple_row

        from dispatcher.client import outbox

        _require(not connection.autocommit or connection.info.transaction_status != outbox.IDLE)
        async with sys.modules["psycopg"].AsyncCursor(connection, row_factory=tuple_row) as cursor:
            await cursor.execute(statement("published"))
            return _events(await cursor.fetchall())
    if _is(connection, "asyncpg", "Connection") or _is(connection, "asyncpg.pool", "PoolConnectionProxy"):
        _require(connection.is_in_transaction())
        return _events([tuple(row) for row in await connection.fetch(statement("published"))])
    if _is(connection, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        connection = connection()
    if _is(connection, "sqlalchemy.ext.asyncio", "AsyncSession", "AsyncConnection"):
        found: list[Received] = await connection.run_sync(_of_sqlalchemy)
        return found
    raise wrong("published_async", connection, _WANTED_ASYNC)


def _of_sqlalchemy(session: Any) -> list[Received]:
    import sqlalchemy as sa

    _require(not isinstance(session, sa.Connection) or session.in_transaction())
    return _events([tuple(row) for row in session.execute(sa.text(named("published"))).all()])


def _is(connection: object, module: str, *classes: str) -> bool:
    """Whether it is an instance of one of these; no library is loaded for that."""
    loaded = sys.modules.get(module)
    kinds = tuple(getattr(loaded, name) for name in classes if hasattr(loaded, name))
    return bool(kinds) and isinstance(connection, kinds)


def _require(in_transaction: bool) -> None:
    if not in_transaction:
        raise NoTransaction(
            "no transaction is open on this connection, so it added nothing that waits for a commit: call published() "
            "before the commit, or relay_once() after it"
        )


def _events(rows: Iterable[tuple[Any, ...]]) -> list[Received]:
    return [event_of(*row) for row in rows]


def event_of(
    event_id: Any, message_id: Any, event_type: str, aggregate_type: str, aggregate_id: str,
    payload: str, headers: str | None, occurred_at: datetime,
) -> Received:  # fmt: skip
    """The event as its first consumer gets it. `payload`, `headers`: JSON text."""
    fields = {
        "event_id": str(event_id),
        "message_id": str(message_id),
        "event_type": event_type,
        "aggregate_type": aggregate_type,
        "aggregate_id": aggregate_id,
        "occurred_at": occurred_at.astimezone(UTC).isoformat(),
        "payload": payload,
    }
    return receive("0-0", fields | ({} if headers is None else {"headers": headers}), deliveries=1)
