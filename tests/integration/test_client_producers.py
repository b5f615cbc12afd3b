"""dispatcher.client adds events: in the caller's transaction, alike with every library it is made for."""

import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from django.db import transaction as django_transaction
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from dispatcher.client import Event, NoTransaction, add_event, add_event_async, django, sqlalchemy

EVENT_ID, MESSAGE_ID = uuid.UUID(int=1), uuid.UUID(int=2)
LATER = datetime(2099, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FULL: dict[str, Any] = {
    "event_type": "order.created",
    "aggregate_type": "order",
    "aggregate_id": 42,
    "payload": {"total": 42, "name": "Ädä '%s' :y ::z", "none": None},
    "headers": {"traceparent": "00-1"},
    "next_run_at": LATER,
    "event_id": EVENT_ID,
    "message_id": MESSAGE_ID,
}
SHORT = Event(event_type="a", aggregate_id="b", payload=b'{"n": 1}')

Add = Callable[[Event], uuid.UUID]
AddAsync = Callable[[Event], Awaitable[uuid.UUID]]


def engine(url: str, driver: str, **options: Any) -> sa.Engine:
    """An engine that leaves no connection open."""
    return sa.create_engine(url.replace("postgresql://", f"postgresql+{driver}://", 1), poolclass=NullPool, **options)


@contextmanager
def with_psycopg(url: str) -> Iterator[Add]:
    with psycopg.connect(url) as connection:
        yield lambda event: add_event(connection, event)


@contextmanager
def with_psycopg_autocommit(url: str) -> Iterator[Add]:
    with psycopg.connect(url, autocommit=True) as connection, connection.transaction():
        yield lambda event: add_event(connection, event)


@contextmanager
def with_core(url: str) -> Iterator[Add]:
    with engine(url, "psycopg").begin() as connection:
        yield lambda event: sqlalchemy.add_event(connection, event)


@contextmanager
def with_psycopg2(url: str) -> Iterator[Add]:
    with engine(url, "psycopg2").begin() as connection:
        yield lambda event: sqlalchemy.add_event(connection, event)


@contextmanager
def with_session(url: str) -> Iterator[Add]:
    with Session(engine(url, "psycopg")) as session, session.begin():
        yield lambda event: sqlalchemy.add_event(session, event)


@contextmanager
def with_scoped_session(url: str) -> Iterator[Add]:
    session = scoped_session(sessionmaker(engine(url, "psycopg")))
    try:
        with session.begin():
            yield lambda event: sqlalchemy.add_event(session, event)
    finally:
        session.remove()


@contextmanager
def with_django(url: str) -> Iterator[Add]:
    with django_transaction.atomic(using="here"):
        yield lambda event: django.add_event(event, using="here")


@asynccontextmanager
async def with_async_psycopg(url: str) -> AsyncIterator[AddAsync]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield lambda event: add_event_async(connection, event)


@asynccontextmanager
async def with_async_core(url: str) -> AsyncIterator[AddAsync]:
    source = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)
    async with source.begin() as connection:
        yield lambda event: sqlalchemy.add_event_async(connection, event)


@asynccontextmanager
async def with_asyncpg_session(url: str) -> AsyncIterator[AddAsync]:
    source = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    async with AsyncSession(source) as session, session.begin():
        yield lambda event: sqlalchemy.add_event_async(session, event)


SYNC = [with_psycopg, with_psycopg_autocommit, with_core, with_psycopg2, with_session, with_scoped_session, with_django]
ASYNC = [with_async_psycopg, with_async_core, with_asyncpg_session]
Transaction = Callable[[str], AbstractContextManager[Add]]
AsyncTransaction = Callable[[str], AbstractAsyncContextManager[AddAsync]]


class Undone(Exception):
    """The application changed its mind."""


def rows(url: str) -> list[dict[str, Any]]:
    """What is committed."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(
            "SELECT *, next_run_at <= clock_timestamp() AS due FROM messaging.message_outbox ORDER BY id"
        ).fetchall()


def check(url: str) -> None:
    """Both events are there, and nothing of the transaction that was rolled back."""
    full, short = rows(url)
    assert {name: full[name] for name in FULL} == FULL | {"aggregate_id": "42"}
    assert (short["event_type"], short["aggregate_id"], short["payload"]) == ("a", "b", {"n": 1})
    assert (short["aggregate_type"], short["headers"], short["status"]) == ("message", None, "pending")
    assert (short["event_id"], short["due"]) == (SHORT.event_id, True)


def change_your_mind(add: Add) -> None:
    add(Event(**FULL))
    raise Undone


@pytest.mark.promise("add-event")
@pytest.mark.usefixtures("django_alias")
@pytest.mark.parametrize("transaction", SYNC)
def test_an_event_is_there_exactly_when_the_transaction_commits(transaction: Transaction, database_url: str) -> None:
    with pytest.raises(Undone), transaction(database_url) as add:
        change_your_mind(add)
    with transaction(database_url) as add:
        assert add(Event(**FULL)) == EVENT_ID
        assert add(SHORT) == SHORT.event_id
        assert rows(database_url) == []
    check(database_url)


@pytest.mark.parametrize("transaction", ASYNC)
async def test_the_same_without_blocking_the_loop(transaction: AsyncTransaction, database_url: str) -> None:
    with contextlib.suppress(Undone):
        async with transaction(database_url) as add:
            await add(Event(**FULL))
            raise Undone
    async with transaction(database_url) as add:
        assert await add(Event(**FULL)) == EVENT_ID
        assert await add(SHORT) == SHORT.event_id
        assert rows(database_url) == []
    check(database_url)


@pytest.mark.promise("add-event")
@pytest.mark.usefixtures("django_alias")
def test_no_event_without_a_transaction(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection, pytest.raises(NoTransaction, match="autocommit"):
        add_event(connection, SHORT)
    for driver in ("psycopg", "psycopg2"):
        source = engine(database_url, driver, isolation_level="AUTOCOMMIT")
        with source.begin() as core, pytest.raises(NoTransaction, match="AUTOCOMMIT"):
            sqlalchemy.add_event(core, SHORT)
        with Session(source) as session, pytest.raises(NoTransaction, match="AUTOCOMMIT"):
            sqlalchemy.add_event(session, SHORT)
    with pytest.raises(NoTransaction, match="atomic"):
        django.add_event(SHORT, using="here")
    assert rows(database_url) == []


async def test_no_event_without_a_transaction_on_the_loop(database_url: str, db: psycopg.AsyncConnection) -> None:
    with pytest.raises(NoTransaction, match="autocommit"):
        await add_event_async(db, SHORT)
    for driver in ("psycopg", "asyncpg"):
        there = database_url.replace("postgresql://", f"postgresql+{driver}://", 1)
        async with create_async_engine(there, poolclass=NullPool, isolation_level="AUTOCOMMIT").begin() as connection:
            with pytest.raises(NoTransaction, match="AUTOCOMMIT"):
                await sqlalchemy.add_event_async(connection, SHORT)
    assert rows(database_url) == []


def test_the_same_event_is_refused_the_second_time(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        add_event(connection, SHORT)
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        add_event(connection, SHORT)
    assert len(rows(database_url)) == 1


@pytest.mark.promise("add-event")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"payload": {"secret-1": object()}}, "payload is not JSON (TypeError)"),
        ({"payload": {"secret-1": float("nan")}}, "payload is not JSON (ValueError)"),
        ({"payload": {"secret-1": "\0"}}, "payload holds the character NUL"),
        ({"payload": b'"\\\\\\u0000 secret-1"'}, "payload holds the character NUL"),
        ({"payload": "secret-1 \ud800"}, "payload holds text that is not valid Unicode"),
        ({"payload": b"secret-1 \xff"}, "payload holds text that is not valid Unicode"),
        ({"payload": b'{"secret-1": 42'}, "payload is not JSON (JSONDecodeError)"),
        ({"payload": b'{"secret-1": NaN}'}, "payload is not JSON (ValueError)"),
        ({"payload": b'"secret-1 \\ud800"'}, "payload holds text that is not valid Unicode"),
        ({"headers": {"secret-1": "\0"}}, "headers holds the character NUL"),
        ({"event_type": ""}, "event_type must be text that is not empty"),
        ({"aggregate_id": "a\0"}, "aggregate_id must be text that is not empty and holds no NUL"),
        ({"next_run_at": datetime(2099, 1, 1)}, "next_run_at has no time zone"),
    ],
)
def test_what_postgres_would_refuse_costs_no_transaction(
    changed: dict[str, Any], words: str, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            add_event(connection, Event(**(FULL | changed)))
        assert "secret" not in str(caught.value)
        assert caught.value.__context__ is None
        add_event(connection, SHORT)
    assert len(rows(database_url)) == 1


def test_json_text_goes_in_as_it_is(database_url: str) -> None:
    payload = b'{"emoji": "\\ud83d\\ude00", "long": ' + b"7" * 5000 + b"}"
    with psycopg.connect(database_url) as connection:
        add_event(connection, Event(event_type="a", aggregate_id="b", payload=payload))
        stored = connection.execute("SELECT payload->>'emoji', length(payload->>'long') FROM messaging.message_outbox")
        assert stored.fetchall() == [("\U0001f600", 5000)]


def test_a_backslash_before_u0000_is_text(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        add_event(connection, Event(event_type="a", aggregate_id="b", payload={"path": r"\u0000"}))
    assert [row["payload"] for row in rows(database_url)] == [{"path": r"\u0000"}]
