"""dispatcher.client adds events: in the caller's transaction, alike with every library it is made for."""

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import Any

import asyncpg
import msgspec
import psycopg
import pydantic
import pytest
import sqlalchemy as sa
from django.db import transaction as django_transaction
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from dispatcher.client import (
    Event,
    NoTransaction,
    add_event,
    add_event_async,
    add_events,
    add_events_async,
    django,
    inbox,
    sqlalchemy,
)
from dispatcher.client import asyncpg as with_asyncpg_alone
from dispatcher.client.statements import NO_OUTBOX

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
MANY = [Event(event_type="a", aggregate_id=number, payload={"n": number}) for number in range(1000)]
SHORT = Event(event_type="a", aggregate_id="b", payload=b'{"n": 1}')

Add = Callable[..., Any]  # (event), or (events, many=True)
AddAsync = Callable[..., Awaitable[Any]]


def either(one: Callable[..., Any], several: Callable[..., Any], *first: Any, **options: Any) -> Callable[..., Any]:
    """Adds an event, or many, in the transaction of `first`."""

    def add(what: Any, *, many: bool = False, **more: Any) -> Any:
        return (several if many else one)(*first, what, **options, **more)

    return add


def engine(url: str, driver: str, **options: Any) -> sa.Engine:
    """An engine that leaves no connection open."""
    return sa.create_engine(url.replace("postgresql://", f"postgresql+{driver}://", 1), poolclass=NullPool, **options)


@contextmanager
def with_psycopg(url: str) -> Iterator[Add]:
    with psycopg.connect(url) as connection:
        yield either(add_event, add_events, connection)


@contextmanager
def with_psycopg_autocommit(url: str) -> Iterator[Add]:
    with psycopg.connect(url, autocommit=True) as connection, connection.transaction():
        yield either(add_event, add_events, connection)


@contextmanager
def with_core(url: str) -> Iterator[Add]:
    with engine(url, "psycopg").begin() as connection:
        yield either(sqlalchemy.add_event, sqlalchemy.add_events, connection)


@contextmanager
def with_psycopg2(url: str) -> Iterator[Add]:
    with engine(url, "psycopg2").begin() as connection:
        yield either(sqlalchemy.add_event, sqlalchemy.add_events, connection)


@contextmanager
def with_session(url: str) -> Iterator[Add]:
    with Session(engine(url, "psycopg")) as session, session.begin():
        yield either(sqlalchemy.add_event, sqlalchemy.add_events, session)


@contextmanager
def with_scoped_session(url: str) -> Iterator[Add]:
    session = scoped_session(sessionmaker(engine(url, "psycopg")))
    try:
        with session.begin():
            yield either(sqlalchemy.add_event, sqlalchemy.add_events, session)
    finally:
        session.remove()


@contextmanager
def with_django(url: str) -> Iterator[Add]:
    with django_transaction.atomic(using="here"):
        yield either(django.add_event, django.add_events, using="here")


@asynccontextmanager
async def with_async_psycopg(url: str) -> AsyncIterator[AddAsync]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield either(add_event_async, add_events_async, connection)


@asynccontextmanager
async def with_async_core(url: str) -> AsyncIterator[AddAsync]:
    source = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)
    async with source.begin() as connection:
        yield either(sqlalchemy.add_event_async, sqlalchemy.add_events_async, connection)


@asynccontextmanager
async def with_asyncpg_session(url: str) -> AsyncIterator[AddAsync]:
    source = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    async with AsyncSession(source) as session, session.begin():
        yield either(sqlalchemy.add_event_async, sqlalchemy.add_events_async, session)


@contextmanager
def with_raw_cursors(url: str) -> Iterator[Add]:
    with psycopg.connect(url, cursor_factory=psycopg.RawCursor) as connection:
        yield either(add_event, add_events, connection)


@contextmanager
def with_several_engines(url: str) -> Iterator[Add]:
    class Base(DeclarativeBase): ...

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    here = engine(url, "psycopg")
    with Session(binds={Order: here}) as session, session.begin():
        yield either(sqlalchemy.add_event, sqlalchemy.add_events, session, bind=here)


@asynccontextmanager
async def with_async_scoped_session(url: str) -> AsyncIterator[AddAsync]:
    source = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    session = async_scoped_session(async_sessionmaker(source), scopefunc=asyncio.current_task)
    try:
        async with session.begin():
            yield either(sqlalchemy.add_event_async, sqlalchemy.add_events_async, session)
    finally:
        await session.remove()


@asynccontextmanager
async def with_several_async_engines(url: str) -> AsyncIterator[AddAsync]:
    here = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)
    async with AsyncSession(binds={}) as session, session.begin():
        yield either(sqlalchemy.add_event_async, sqlalchemy.add_events_async, session, bind=here)


@asynccontextmanager
async def with_async_raw_cursors(url: str) -> AsyncIterator[AddAsync]:
    async with await psycopg.AsyncConnection.connect(url, cursor_factory=psycopg.AsyncRawCursor) as connection:
        yield either(add_event_async, add_events_async, connection)


@asynccontextmanager
async def with_asyncpg(url: str) -> AsyncIterator[AddAsync]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield either(with_asyncpg_alone.add_event, with_asyncpg_alone.add_events, connection)
    finally:
        await connection.close()


@asynccontextmanager
async def with_asyncpg_pool(url: str) -> AsyncIterator[AddAsync]:
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield either(with_asyncpg_alone.add_event, with_asyncpg_alone.add_events, connection)


@asynccontextmanager
async def with_asyncpg_codecs(url: str) -> AsyncIterator[AddAsync]:
    """As asyncpg's manual has it, so that rows have dicts: its parameters of jsonb are dicts too."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    await connection.set_type_codec("uuid", encoder=lambda it: it.hex, decoder=uuid.UUID, schema="pg_catalog")
    try:
        async with connection.transaction():
            yield either(with_asyncpg_alone.add_event, with_asyncpg_alone.add_events, connection)
            await with_asyncpg_alone.create_table(connection)
            assert await with_asyncpg_alone.first_time(connection, "a", uuid.uuid4())
    finally:
        await connection.close()


SYNC = [
    with_psycopg,
    with_psycopg_autocommit,
    with_raw_cursors,
    with_core,
    with_psycopg2,
    with_session,
    with_scoped_session,
    with_several_engines,
    with_django,
]
ASYNC = [
    with_async_psycopg,
    with_async_raw_cursors,
    with_async_core,
    with_asyncpg_session,
    with_async_scoped_session,
    with_several_async_engines,
    with_asyncpg,
    with_asyncpg_pool,
    with_asyncpg_codecs,
]
Transaction = Callable[[str], AbstractContextManager[Any]]
AsyncTransaction = Callable[[str], AbstractAsyncContextManager[Any]]


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


def check_many(url: str) -> None:
    """Those that were added at once are there, in their order, and none twice."""
    found = rows(url)[2:]
    assert [row["payload"] for row in found] == [event.payload for event in MANY]
    assert {(row["aggregate_type"], row["headers"], row["due"]) for row in found} == {("message", None, True)}


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
    with transaction(database_url) as add:
        assert add(MANY, many=True) == [event.event_id for event in MANY]
        assert add([SHORT, Event(**FULL)], many=True, on_duplicate="ignore") == [SHORT.event_id, EVENT_ID]
        assert add(SHORT, on_duplicate="ignore") == SHORT.event_id
        assert add(iter([]), many=True) == []
    check_many(database_url)
    with pytest.raises(Exception, match="duplicate key"), transaction(database_url) as add:
        add([Event(event_type="a", aggregate_id="b", payload=1), SHORT], many=True)
    assert len(rows(database_url)) == 2 + len(MANY)


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
    async with transaction(database_url) as add:
        assert await add(MANY, many=True) == [event.event_id for event in MANY]
        assert await add([SHORT, Event(**FULL)], many=True, on_duplicate="ignore") == [SHORT.event_id, EVENT_ID]
        assert await add(SHORT, on_duplicate="ignore") == SHORT.event_id
        assert await add(iter([]), many=True) == []
    check_many(database_url)
    with pytest.raises(Exception, match="duplicate key"):
        async with transaction(database_url) as add:
            await add([Event(event_type="a", aggregate_id="b", payload=1), SHORT], many=True)
    assert len(rows(database_url)) == 2 + len(MANY)


NO_TABLE = r'relation "messaging\.message_outbox" does not exist'


def without_outbox(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE messaging.message_outbox RENAME TO elsewhere")


def check_the_remedy(error: BaseException) -> None:
    """The driver's own error, whose class an application may catch, with a note."""
    assert error.__notes__ == [NO_OUTBOX]
    assert not type(error).__module__.startswith("dispatcher")


@pytest.mark.usefixtures("django_alias")
@pytest.mark.parametrize("transaction", SYNC)
def test_without_an_outbox_the_drivers_error_says_how_to_make_it(transaction: Transaction, database_url: str) -> None:
    """`relation "messaging.message_outbox" does not exist` was all that a new application was told."""
    without_outbox(database_url)
    for what, many in ((SHORT, False), ([SHORT], True)):
        with pytest.raises(Exception, match=NO_TABLE) as raised, transaction(database_url) as add:
            add(what, many=many)
        check_the_remedy(raised.value)


@pytest.mark.parametrize("transaction", ASYNC)
async def test_without_an_outbox_it_says_so_on_the_loop(transaction: AsyncTransaction, database_url: str) -> None:
    without_outbox(database_url)
    for what, many in ((SHORT, False), ([SHORT], True)):
        with pytest.raises(Exception, match=NO_TABLE) as raised:
            async with transaction(database_url) as add:
                await add(what, many=many)
        check_the_remedy(raised.value)


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
        ({"payload": {"secret-1": object()}}, "payload[...] is of type object, which JSON does not have"),
        ({"payload": {"lines": [{}, {"at": {1}}]}}, "payload.lines[1].at is of type set, which JSON does not have"),
        ({"payload": {"total": Decimal("NaN")}}, "payload.total is NaN or infinite"),
        ({"payload": {"lines": {(1, 2): 3}}}, "payload.lines has a key of type tuple: JSON has text only"),
        ({"payload": {"secret-1": float("nan")}}, "payload[...] is NaN or infinite, which JSON does not have"),
        ({"payload": {"name": "secret-1 \0"}}, "payload.name holds the character NUL"),
        ({"payload": b'"\\\\\\u0000 secret-1"'}, "payload holds the character NUL"),
        ({"payload": "secret-1 \ud800"}, "payload holds text that is not valid Unicode"),
        ({"payload": b"secret-1 \xff"}, "payload holds text that is not valid Unicode"),
        ({"payload": b'{"secret-1": 42'}, "payload is no JSON text at character 15"),
        ({"payload": b'{"secret-1": NaN}'}, "payload is no JSON text (NaN or Infinity)"),
        ({"payload": b'"secret-1 \\ud800"'}, "payload holds text that is not valid Unicode"),
        ({"headers": {"secret-1": "\0"}}, "headers[...] holds the character NUL"),
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


def test_many_are_all_there_or_none(database_url: str) -> None:
    full = Event(**FULL)
    exact = Event(event_type="a", aggregate_id="b", payload=b'{"n": 1.10, "long": ' + b"7" * 5000 + b"}")
    with psycopg.connect(database_url) as connection:
        with pytest.raises(ValueError, match="payload is of type object"):
            add_events(connection, [SHORT, Event(event_type="a", aggregate_id="b", payload=object())])
        add_events(connection, [full, exact])
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        stored = connection.execute("SELECT payload::text FROM messaging.message_outbox WHERE event_type = 'a'")
        assert stored.fetchall() == [('{"n": 1.10, "long": ' + "7" * 5000 + "}",)]
        # Python has limits of its own.
        connection.execute("DELETE FROM messaging.message_outbox WHERE event_type = 'a'")
    [first] = rows(database_url)
    assert {name: first[name] for name in FULL} == FULL | {"aggregate_id": "42"}


class Kind(Enum):
    WEB = "web"


@dataclass
class Line:
    price: Decimal
    placed: datetime
    kind: Kind


class Model(pydantic.BaseModel):
    id: uuid.UUID
    day: date


class Struct(msgspec.Struct, rename="camel"):
    line_no: int
    day: date


@pytest.mark.parametrize(
    ("payload", "written"),
    [
        (Line(Decimal("1.10"), LATER, Kind.WEB), {"price": 1.1, "placed": LATER.isoformat(), "kind": "web"}),
        (Model(id=EVENT_ID, day=date(2025, 6, 1)), {"id": str(EVENT_ID), "day": "2025-06-01"}),
        ({"model": Model(id=EVENT_ID, day=date(2025, 6, 1))}, {"model": {"id": str(EVENT_ID), "day": "2025-06-01"}}),
        (Struct(line_no=1, day=date(2025, 6, 1)), {"lineNo": 1, "day": "2025-06-01"}),
        ([Struct(line_no=1, day=date(2025, 6, 1))], [{"lineNo": 1, "day": "2025-06-01"}]),
        ((LATER, EVENT_ID, None, True), [LATER.isoformat(), str(EVENT_ID), None, True]),
        (MappingProxyType({"a": 1}), {"a": 1}),
    ],
    ids=str,
)
def test_payloads_of_other_libraries(payload: object, written: object) -> None:
    assert json.loads(str(Event(event_type="a", aggregate_id="b", payload=payload).parameters()["payload"])) == written


def test_a_decimal_keeps_its_digits(database_url: str) -> None:
    numbers = [Decimal("1.10"), Decimal("0.1234567890123456789012345"), Decimal("-1E+3"), Decimal(7)]
    with psycopg.connect(database_url) as connection:
        add_event(connection, Event(event_type="a", aggregate_id="b", payload={"numbers": numbers, "text": "1.10"}))
        stored = connection.execute("SELECT payload::text FROM messaging.message_outbox").fetchall()
    assert stored == [('{"text": "1.10", "numbers": [1.10, 0.1234567890123456789012345, -1000, 7]}',)]


def test_an_encoder_of_the_application() -> None:
    make = partial(Event, event_type="a", aggregate_id="b")
    assert make(payload={1}, encode=lambda found: json.dumps(sorted(found))).parameters()["payload"] == "[1]"
    assert make(payload={1}, encode=lambda found: b"[1]").parameters()["payload"] == "[1]"
    with pytest.raises(ValueError, match="payload is no JSON text at character 0"):
        make(payload={1}, encode=lambda found: "secret").parameters()
    with pytest.raises(TypeError, match="encode returned a set: it must be JSON text"):
        make(payload={1}, encode=lambda found: found).parameters()


async def test_the_wrong_connection_is_told_which_is_right(database_url: str, db: psycopg.AsyncConnection) -> None:
    async def refused(function: Callable[..., Any], *arguments: Any) -> str:
        async def call() -> None:
            await function(*arguments)

        with pytest.raises(TypeError) as caught:
            await call()
        return str(caught.value)

    there = engine(database_url, "psycopg")
    source = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    raw = await asyncpg.connect(database_url)
    async with AsyncSession(source) as session:
        said = await refused(add_event_async, session, SHORT)
        assert said.startswith("add_event_async: this is a sqlalchemy.ext.asyncio.session.AsyncSession")
        assert "dispatcher.client.sqlalchemy has add_event for a Session" in said
        asked: list[tuple[Callable[..., Any], tuple[object, ...]]] = [
            (inbox.create_table, ()),
            (inbox.create_table_async, ()),
            (inbox.first_time_async, ("a", SHORT.event_id)),
            (inbox.forget, (timedelta(0),)),
            (inbox.forget_async, (timedelta(0),)),
        ]
        for function, arguments in asked:
            assert (await refused(function, session, *arguments)).startswith(f"{function.__name__}: this is a sqlalch")
    assert "and add_event_async for an AsyncConnection" in await refused(add_event, db, SHORT)
    assert "dispatcher.client.asyncpg has add_event for" in await refused(add_event_async, raw, SHORT)
    assert "it is no transaction: open one" in await refused(sqlalchemy.add_event, there, SHORT)
    said = await refused(sqlalchemy.add_event_async, db, SHORT)
    assert said.startswith("add_event_async: this is a psycopg")
    assert "dispatcher.client has add_event(connection" in said
    assert "dispatcher.client has add_events(connection" in await refused(with_asyncpg_alone.add_events, db, [SHORT])
    assert "not an Event, which comes first here" in await refused(django.add_event, db, SHORT)
    assert "name that of the outbox" in await refused(sqlalchemy.add_event, Session(), SHORT)
    assert "not a psycopg.Connection" in await refused(add_event, None, SHORT)
    with pytest.raises(NoTransaction, match="this asyncpg connection is in no transaction"):
        await with_asyncpg_alone.add_event(raw, SHORT)
    await raw.execute("BEGIN")
    with pytest.raises(ValueError, match="on_duplicate is 'skip'"):
        await with_asyncpg_alone.add_event(raw, SHORT, on_duplicate="skip")  # type: ignore[arg-type]
    await raw.close()


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


@pytest.mark.parametrize("given", [{"event_type": "a"}, "a", Event], ids=["a dict", "text", "the class"])
def test_what_is_no_event_is_named(given: Any, database_url: str) -> None:
    named = f"a dispatcher.client.Event is needed, not a builtins.{type(given).__name__}"
    with psycopg.connect(database_url) as connection:
        with pytest.raises(TypeError, match=named):
            add_event(connection, given)
        with pytest.raises(TypeError, match=named):
            add_events(connection, [SHORT, given])
    assert rows(database_url) == []
