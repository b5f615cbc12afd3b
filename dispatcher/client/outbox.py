"""Adds an event on a psycopg connection, in the transaction that is open on it."""

from __future__ import annotations  # psycopg may not be there: an application with another driver imports this too

import uuid
from typing import TYPE_CHECKING, Any

from dispatcher.client.event import Event, NoTransaction
from dispatcher.infra import sqlfiles

if TYPE_CHECKING:
    import psycopg

IDLE = 0  # psycopg.pq.TransactionStatus.IDLE: libpq's PQTRANS_IDLE


def add_event(connection: psycopg.Connection[Any], event: Event) -> uuid.UUID:
    """Insert the event; its event_id. It is published when the transaction commits, and gone when it rolls back.

    Raises NoTransaction on an autocommit connection outside `connection.transaction()`, and ValueError for a field.
    """
    require_transaction(connection)
    connection.execute(sqlfiles.client("add_event"), event.parameters())
    return event.event_id


async def add_event_async(connection: psycopg.AsyncConnection[Any], event: Event) -> uuid.UUID:
    """The same on an AsyncConnection."""
    require_transaction(connection)
    await connection.execute(sqlfiles.client("add_event"), event.parameters())
    return event.event_id


def require_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Raise NoTransaction when what is executed next would be committed by itself."""
    if connection.autocommit and connection.info.transaction_status == IDLE:
        raise NoTransaction(
            "this psycopg connection is in autocommit and in no transaction: call this inside the "
            "`with connection.transaction():` that does the work"
        )
