"""Adds events on a psycopg connection, in the transaction that is open on it."""

from __future__ import annotations  # psycopg may not be there: an application with another driver imports this too

import sys
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dispatcher.client.event import Event, NoTransaction, many_events, one_event
from dispatcher.client.statements import OnDuplicate, adding, statement, wrong

if TYPE_CHECKING:
    import psycopg

IDLE, ACTIVE = 0, 1  # psycopg.pq.TransactionStatus: libpq's PQTRANS_IDLE and PQTRANS_ACTIVE


def add_event(
    connection: psycopg.Connection[Any], event: Event, *, on_duplicate: OnDuplicate = "raise", in_order: bool = False
) -> uuid.UUID:
    """Insert the event; its event_id. It is published when the transaction commits, and gone when it rolls back.

    `on_duplicate`: an event of the same event_id that is in the outbox is an error of the database ("raise"), or this
    one is left out ("ignore").
    `in_order`: wait until other transactions that added an event of this aggregate in order have ended. Use it, in
    every place that adds such events, where nothing else serialises the writers of an aggregate.
    Raises NoTransaction on an autocommit connection outside `connection.transaction()`, and ValueError for a field.
    """
    require(connection, "add_event", asynchronous=False)
    require_transaction(connection)
    name, parameters = one_event(event, in_order)
    with adding():
        cursor(connection).execute(statement(name, on_duplicate), parameters)
    return event.event_id


async def add_event_async(
    connection: psycopg.AsyncConnection[Any],
    event: Event,
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
) -> uuid.UUID:
    """The same on an AsyncConnection."""
    require(connection, "add_event", asynchronous=True)
    await require_transaction_async(connection)
    name, parameters = one_event(event, in_order)
    with adding():
        await cursor(connection).execute(statement(name, on_duplicate), parameters)
    return event.event_id


def add_events(
    connection: psycopg.Connection[Any],
    events: Iterable[Event],
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
) -> list[uuid.UUID]:
    """Insert many events by one statement, in one round trip; their event_ids. All of them or, on an error, none.

    `in_order`: as of add_event, for all aggregates of these events, without a deadlock between two such calls.
    Raises as add_event.
    """
    require(connection, "add_events", asynchronous=False)
    require_transaction(connection)
    listed = list(events)
    name, runs = many_events(listed, in_order)
    with adding():
        for parameters in runs:
            cursor(connection).execute(statement(name, on_duplicate), parameters)
    return [event.event_id for event in listed]


async def add_events_async(
    connection: psycopg.AsyncConnection[Any],
    events: Iterable[Event],
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
) -> list[uuid.UUID]:
    """The same on an AsyncConnection."""
    require(connection, "add_events", asynchronous=True)
    await require_transaction_async(connection)
    listed = list(events)
    name, runs = many_events(listed, in_order)
    with adding():
        for parameters in runs:
            await cursor(connection).execute(statement(name, on_duplicate), parameters)
    return [event.event_id for event in listed]


def require(connection: Any, name: str, *, asynchronous: bool) -> None:
    """Raise TypeError for what is no connection of psycopg, or one of the other kind: which function takes it."""
    psycopg: Any = sys.modules.get("psycopg")
    kind = psycopg and (psycopg.AsyncConnection if asynchronous else psycopg.Connection)
    if kind is None or not isinstance(connection, kind):
        wanted = "a psycopg.AsyncConnection" if asynchronous else "a psycopg.Connection"
        raise wrong(name, connection, wanted, called=f"{name}_async" if asynchronous else name)


def cursor(connection: Any) -> Any:
    """A cursor that takes our parameters: that of the connection, unless it is one that takes `$1`."""
    import psycopg

    factory = connection.cursor_factory
    if issubclass(factory, psycopg.RawCursor | psycopg.AsyncRawCursor):
        plain = psycopg.AsyncCursor if isinstance(connection, psycopg.AsyncConnection) else psycopg.Cursor
        return plain(connection)
    return connection.cursor()


def require_transaction(connection: psycopg.Connection[Any]) -> None:
    """Raise NoTransaction when what is executed next would be committed by itself."""
    if _is_unclear(connection):
        with connection.pipeline() as pipeline:
            pipeline.sync()
    _require_transaction(connection)


async def require_transaction_async(connection: psycopg.AsyncConnection[Any]) -> None:
    """The same on an AsyncConnection."""
    if _is_unclear(connection):
        async with connection.pipeline() as pipeline:
            await pipeline.sync()
    _require_transaction(connection)


def _is_unclear(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the answers of a pipeline have to come in first, which tell whether a transaction is open."""
    return connection.autocommit and connection.info.transaction_status == ACTIVE


def _require_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if connection.autocommit and connection.info.transaction_status == IDLE:
        raise NoTransaction(
            "this psycopg connection is in autocommit and in no transaction: call this inside the "
            "`with connection.transaction():` that does the work"
        )
