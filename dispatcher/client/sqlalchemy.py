"""Adds events on a SQLAlchemy session or connection, in its transaction, whichever Postgres driver it has.

Needs SQLAlchemy (the extra `sqlalchemy` brings it) and its driver. `bind`: for a session that has several engines, the
engine of the outbox.
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from dispatcher.client.event import Event, NoTransaction, handled, many_events, one_event
from dispatcher.client.statements import OnDuplicate, adding, named, wrong
from dispatcher.infra import sqlfiles

try:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
except ImportError:  # from SQLAlchemy 2.1 on, where greenlet is not installed: nobody has such a session then
    _T = TypeVar("_T")

    class _Absent(Generic[_T]):
        """Stands for a class that cannot be imported: isinstance() of it is always false."""

    AsyncConnection = AsyncEngine = AsyncSession = async_scoped_session = _Absent  # type: ignore[assignment, misc]

AnySession = Session | scoped_session[Session] | sa.Connection
AnyAsyncSession = AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection
Bind = sa.Engine | AsyncEngine


def add_event(
    session: AnySession,
    event: Event,
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
    bind: Bind | None = None,
) -> uuid.UUID:
    """Insert the event at once; its event_id. It is published when the session commits, and gone when it rolls back.

    `on_duplicate`: an event of the same event_id that is in the outbox is an error of the database ("raise"), or this
    one is left out ("ignore").
    `in_order`: wait until other transactions that added an event of this aggregate in order have ended. Use it, in
    every place that adds such events, where nothing else serialises the writers of an aggregate.
    Raises NoTransaction when the isolation level is AUTOCOMMIT, and ValueError for a field of the event.
    """
    connection = _in_transaction(session, "add_event", bind)
    name, parameters = one_event(event, in_order)
    with adding():
        connection.execute(statement(name, on_duplicate), parameters)
    return event.event_id


async def add_event_async(
    session: AnyAsyncSession,
    event: Event,
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
    bind: Bind | None = None,
) -> uuid.UUID:
    """The same on an AsyncSession or AsyncConnection."""
    one = _one(session, "add_event")
    return await one.run_sync(add_event, event, on_duplicate=on_duplicate, in_order=in_order, bind=bind)


def add_events(
    session: AnySession,
    events: Iterable[Event],
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
    bind: Bind | None = None,
) -> list[uuid.UUID]:
    """Insert many events by one statement, in one round trip; their event_ids. All of them or, on an error, none.

    `in_order`: as of add_event, for all aggregates of these events, without a deadlock between two such calls.
    Raises as add_event.
    """
    connection = _in_transaction(session, "add_events", bind)
    listed = list(events)
    name, runs = many_events(listed, in_order)
    with adding():
        for parameters in runs:
            connection.execute(statement(name, on_duplicate), parameters)
    return [event.event_id for event in listed]


async def add_events_async(
    session: AnyAsyncSession,
    events: Iterable[Event],
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
    bind: Bind | None = None,
) -> list[uuid.UUID]:
    """The same on an AsyncSession or AsyncConnection."""
    one = _one(session, "add_events")
    return await one.run_sync(add_events, events, on_duplicate=on_duplicate, in_order=in_order, bind=bind)


def create_table(session: AnySession, *, bind: Bind | None = None) -> None:
    """As dispatcher.client.inbox.create_table: create `handled_event`, if it is not there. Commit after it."""
    connection = _connection(session, "create_table", bind)
    if connection.exec_driver_sql("SELECT to_regclass('handled_event') IS NULL").scalar():
        lines = sqlfiles.client("handled_event").splitlines()
        connection.execute(sa.text("\n".join(line for line in lines if not line.startswith("--"))))


async def create_table_async(session: AnyAsyncSession, *, bind: Bind | None = None) -> None:
    """The same on an AsyncSession or AsyncConnection."""
    await _one(session, "create_table").run_sync(create_table, bind=bind)


def first_time(session: AnySession, consumer: str, event_id: uuid.UUID, *, bind: Bind | None = None) -> bool:
    """As dispatcher.client.inbox.first_time: whether this consumer has not handled the event; remembers it."""
    connection = _in_transaction(session, "first_time", bind)
    return connection.execute(statement("first_time"), handled(consumer, event_id)).first() is not None


async def first_time_async(
    session: AnyAsyncSession, consumer: str, event_id: uuid.UUID, *, bind: Bind | None = None
) -> bool:
    """The same on an AsyncSession or AsyncConnection."""
    return await _one(session, "first_time").run_sync(first_time, consumer, event_id, bind=bind)


def forget(session: AnySession, older_than: timedelta, limit: int = 10_000, *, bind: Bind | None = None) -> int:
    """As dispatcher.client.inbox.forget: forget up to `limit` events that were handled longer ago; how many. Commit."""
    connection = _connection(session, "forget", bind)
    return int(connection.execute(statement("forget"), {"older_than": older_than, "limit": limit}).scalar_one())


async def forget_async(
    session: AnyAsyncSession, older_than: timedelta, limit: int = 10_000, *, bind: Bind | None = None
) -> int:
    """The same on an AsyncSession or AsyncConnection."""
    return await _one(session, "forget").run_sync(forget, older_than, limit, bind=bind)


@cache
def statement(name: str, on_duplicate: OnDuplicate = "raise") -> sa.TextClause:
    """sql/client/<name>.sql with SQLAlchemy's parameters."""
    text = sa.text(named(name, on_duplicate))
    if name == "forget":
        return text.bindparams(sa.bindparam("older_than", type_=sa.Interval()))
    if name != "add_event":
        return text
    return text.bindparams(sa.bindparam("next_run_at", type_=sa.DateTime(timezone=True)))


def _one(session: AnyAsyncSession, name: str) -> AsyncSession | AsyncConnection:
    """The AsyncSession or AsyncConnection itself. Raises TypeError for anything else."""
    if isinstance(session, async_scoped_session):
        return session()
    if not isinstance(session, AsyncSession | AsyncConnection):
        raise wrong(name, session, "an AsyncSession or AsyncConnection of SQLAlchemy", called=f"{name}_async")
    return session


def _connection(session: Any, name: str, bind: Bind | None) -> sa.Connection:
    if isinstance(session, sa.Connection):
        return session
    if not isinstance(session, Session | scoped_session):
        raise wrong(name, session, "a Session or Connection of SQLAlchemy")
    try:
        engine = bind.sync_engine if isinstance(bind, AsyncEngine) else bind
        return session.connection(bind_arguments={"bind": engine}) if engine is not None else session.connection()
    except sa.exc.UnboundExecutionError:
        raise TypeError("this session has several engines: name that of the outbox, with bind=engine") from None


def _in_transaction(session: Any, name: str, bind: Bind | None) -> sa.Connection:
    connection = _connection(session, name, bind)
    driver: Any = connection.connection.dbapi_connection
    if getattr(driver, "autocommit", False):
        raise NoTransaction(
            "this SQLAlchemy connection has the isolation level AUTOCOMMIT: add the event on the one whose transaction "
            "changes your data"
        )
    return connection
