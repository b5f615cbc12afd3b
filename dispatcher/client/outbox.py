"""Adds an event on a psycopg connection, in the transaction that is open on it."""

from __future__ import annotations  # psycopg may not be there: an application with another driver imports this too

import uuid
from typing import TYPE_CHECKING, Any

from dispatcher.client.event import Event, NoTransaction
from dispatcher.infra import sqlfiles

if TYPE_CHECKING:
    import psycopg

IDLE, ACTIVE = 0, 1  # psycopg.pq.TransactionStatus: libpq's PQTRANS_IDLE and PQTRANS_ACTIVE


def add_event(connection: psycopg.Connection[Any], event: Event) -> uuid.UUID:
    """Insert the event; its event_id. It is published when the transaction commits, and gone when it rolls back.

    Raises NoTransaction on an autocommit connection outside `connection.transaction()`, and ValueError for a field.
    """
    require_transaction(connection)
    connection.execute(sqlfiles.client("add_event"), event.parameters())
    return event.event_id


async def add_event_async(connection: psycopg.AsyncConnection[Any], event: Event) -> uuid.UUID:
    """The same on an AsyncConnection."""
    await require_transaction_async(connection)
    await connection.execute(sqlfiles.client("add_event"), event.parameters())
    return event.event_id


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
