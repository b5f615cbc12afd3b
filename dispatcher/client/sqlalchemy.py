"""Adds an event on a SQLAlchemy session or connection, in its transaction, whichever Postgres driver it has.

Needs the extra `sqlalchemy`.
"""

import re
import uuid
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, scoped_session

from dispatcher.client.event import Event, NoTransaction
from dispatcher.infra import sqlfiles


def add_event(session: Session | scoped_session[Session] | sa.Connection, event: Event) -> uuid.UUID:
    """Insert the event at once; its event_id. It is published when the session commits, and gone when it rolls back.

    Raises NoTransaction when the isolation level is AUTOCOMMIT, and ValueError for a field of the event.
    """
    connection = _connection(session)
    _require_transaction(connection)
    connection.execute(statement("add_event"), event.parameters())
    return event.event_id


async def add_event_async(session: AsyncSession | AsyncConnection, event: Event) -> uuid.UUID:
    """The same on an AsyncSession or AsyncConnection."""
    return await session.run_sync(add_event, event)


def first_time(session: Session | scoped_session[Session] | sa.Connection, consumer: str, event_id: uuid.UUID) -> bool:
    """As dispatcher.client.inbox.first_time: whether this consumer has not handled the event; remembers it."""
    connection = _connection(session)
    _require_transaction(connection)
    parameters = {"consumer": consumer, "event_id": str(event_id)}
    return connection.execute(statement("first_time"), parameters).first() is not None


async def first_time_async(session: AsyncSession | AsyncConnection, consumer: str, event_id: uuid.UUID) -> bool:
    """The same on an AsyncSession or AsyncConnection."""
    return await session.run_sync(first_time, consumer, event_id)


@cache
def statement(name: str) -> sa.TextClause:
    """sql/client/<name>.sql with SQLAlchemy's parameters, and without comments: a colon there would be one."""
    lines = [line for line in sqlfiles.client(name).splitlines() if not line.startswith("--")]
    text = sa.text(re.sub(r"%\((\w+)\)s", r":\1", "\n".join(lines)))
    if name != "add_event":
        return text
    return text.bindparams(sa.bindparam("next_run_at", type_=sa.DateTime(timezone=True)))


def _connection(session: Session | scoped_session[Session] | sa.Connection) -> sa.Connection:
    return session if isinstance(session, sa.Connection) else session.connection()


def _require_transaction(connection: sa.Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    if getattr(driver, "autocommit", False):
        raise NoTransaction(
            "this SQLAlchemy connection has the isolation level AUTOCOMMIT: add the event on the one whose transaction "
            "changes your data"
        )
