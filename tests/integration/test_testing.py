"""dispatcher.testing: what a transaction added, with every library; a relay for once; a consumer of one event."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import redis
import redis.asyncio
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from dispatcher.client import Event, NoTransaction, add_event, add_event_async
from dispatcher.client import asyncpg as of_asyncpg
from dispatcher.client import sqlalchemy as of_sqlalchemy
from dispatcher.client.consumer import AsyncConsumer, Consumer, Group, Received
from dispatcher.client.dedup import RedisDedupStore
from dispatcher.client.function_answers import FunctionTooSlow
from dispatcher.core.errors import Misconfigured
from dispatcher.core.layout import Layout, Route
from dispatcher.handlers import Retry
from dispatcher.infra.sqlfiles import load
from dispatcher.testing import (
    NotPublished,
    Servers,
    published,
    published_async,
    received,
    relay_once,
    run_one,
    run_one_async,
)
from tests.support.readme import blocks, page


def event(number: int, **more: Any) -> Event:
    return Event(event_type="order.created", aggregate_id=str(number), payload={"n": number}, **more)


def numbers(events: list[Received]) -> list[int]:
    return [each.json()["n"] for each in events]


def test_psycopg(database_url: str) -> None:
    """Savepoints count, unless they were rolled back; what others commit meanwhile does not."""
    with psycopg.connect(database_url, row_factory=dict_row) as connection, psycopg.connect(database_url) as other:
        assert published(connection) == []
        connection.execute("SELECT age(xmin) FROM messaging.schema_migration")
        add_event(connection, event(1, headers={"trace": "a"}))
        with connection.transaction():
            add_event(connection, event(2))
        with connection.transaction(force_rollback=True):
            add_event(connection, event(3))
            assert numbers(published(connection)) == [1, 2, 3]
        add_event(other, event(4))
        other.commit()
        add_event(connection, event(5))
        found = published(connection)
        assert numbers(found) == [1, 2, 5]
        assert (found[0].headers, found[0].aggregate_id, found[0].event_type) == ({"trace": "a"}, "1", "order.created")
        connection.commit()
        assert published(connection) == [], "the next transaction has added nothing"
    with psycopg.connect(database_url, autocommit=True) as connection:
        with pytest.raises(NoTransaction, match="relay_once"):
            published(connection)
        with connection.transaction():
            add_event(connection, event(6))
            assert numbers(published(connection)) == [6]


async def by_async_psycopg(url: str) -> list[Received]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await add_event_async(connection, event(1))
        return await published_async(connection)


async def by_asyncpg(url: str) -> list[Received]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        with pytest.raises(NoTransaction):
            await published_async(connection)
        async with connection.transaction():
            await of_asyncpg.add_event(connection, event(1))
            found: list[Received] = await published_async(connection)
            return found


async def by_sqlalchemy(url: str) -> list[Received]:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:", 1), poolclass=NullPool)
    session = scoped_session(sessionmaker(engine))
    of_sqlalchemy.add_event(session, event(1))
    assert numbers(published(session.connection())) == [1]
    try:
        return published(session)
    finally:
        session.remove()


async def by_sqlalchemy_on_asyncpg(url: str) -> list[Received]:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    async with AsyncSession(engine) as session:
        await of_sqlalchemy.add_event_async(session, event(1))
        scoped: Any = async_scoped_session(lambda: session, scopefunc=lambda: 1)  # type: ignore[arg-type]
        assert numbers(await published_async(scoped)) == [1]
        assert numbers(await published_async(await session.connection())) == [1]
        return await published_async(session)


@pytest.mark.parametrize("by", [by_async_psycopg, by_asyncpg, by_sqlalchemy, by_sqlalchemy_on_asyncpg])
async def test_every_library(by: Callable[[str], Awaitable[list[Received]]], database_url: str) -> None:
    assert numbers(await by(database_url)) == [1]


def test_a_session_that_is_rolled_back_at_the_end_of_the_test(database_url: str) -> None:
    """SQLAlchemy's way: the code under test commits into a savepoint of the test's transaction."""
    engine = sa.create_engine(database_url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    for _ in range(2):
        with engine.connect() as connection, connection.begin() as outer:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                of_sqlalchemy.add_event(session, event(1))
                session.commit()
                assert numbers(published(session)) == [1]
            outer.rollback()


def test_another_object_is_refused_with_what_takes_it() -> None:
    with pytest.raises(TypeError, match=r"published: this is a builtins\.str, not a connection of psycopg"):
        published("postgresql://")


async def test_an_async_session_that_is_rolled_back_at_the_end_of_the_test(database_url: str) -> None:
    """What an inner savepoint took back is not published; what the code committed is, though nothing is committed."""
    there = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    for _ in range(2):
        async with there.connect() as connection:
            outer = await connection.begin()
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                await of_sqlalchemy.add_event_async(session, event(1))
                await session.commit()
                await of_sqlalchemy.add_event_async(session, event(2))
                await session.rollback()
                inner = await session.begin_nested()
                await of_sqlalchemy.add_event_async(session, event(3))
                await inner.rollback()
                await of_sqlalchemy.add_event_async(session, event(4))
                await session.commit()
                assert numbers(await published_async(session)) == [1, 4]
            await outer.rollback()
    with psycopg.connect(database_url) as other:
        assert other.execute("SELECT FROM messaging.message_outbox").fetchall() == []


async def test_what_is_committed_and_due_is_published_once(
    database_url: str, redis_url: str, redis: redis.asyncio.Redis
) -> None:
    later = datetime.now(UTC) + timedelta(minutes=30)
    with psycopg.connect(database_url) as connection, psycopg.connect(database_url) as open_one:
        for each in (event(1, headers={"trace": "a"}), event(2), event(3, next_run_at=later)):
            add_event(connection, each)
        connection.commit()
        add_event(open_one, event(4))
        found = relay_once(database_url, redis_url)  # on a loop that runs: it waits
        assert numbers(found) == [1, 2]
        assert (found[0].headers, found[0].stream, found[0].deliveries) == ({"trace": "a"}, "sanctum:messages", 1)
        entries: Any = await redis.xrange("sanctum:messages")
        assert [entry_id for entry_id, _ in entries] == [each.entry_id for each in found]
        assert relay_once(database_url, redis_url) == []
        assert numbers(relay_once(database_url, redis_url, now=later + timedelta(seconds=1), stream="other")) == [3]
        rows = connection.execute("SELECT status, stream_id IS NULL FROM messaging.message_outbox").fetchall()
        assert set(rows) == {("sent", False)}


def test_shards_and_routes_are_those_of_the_settings(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event in the key where a dispatcher with these variables puts it, and where its consumers read."""
    monkeypatch.setenv("DISPATCH_STREAM_NAME", "all")
    monkeypatch.setenv("DISPATCH_STREAM_SHARDS", "4")
    monkeypatch.setenv("DISPATCH_ROUTES", "order.*=orders")
    layout = Layout("all", 4, (Route("order.*", "orders"),))
    with psycopg.connect(database_url) as connection:
        set_it = connection.execute(  # as the first dispatcher with these settings does
            load("layout_set"), layout.columns() | {"former": [], "by": "test", "first": True}
        )
        assert set_it.fetchone() == (None,)
        for number in range(20):
            add_event(connection, event(number))
        add_event(connection, Event(event_type="mail.sent", aggregate_id="1", payload={"n": 20}))
    found = relay_once(database_url, redis_url)
    assert numbers(found) == list(range(21))
    assert {each.stream for each in found[:20]} == {f"orders:{{{shard}}}" for shard in range(4)}
    got: list[int] = []
    with redis.Redis.from_url(redis_url) as client:
        keys = {str(each.stream) for each in found}
        assert set(client.scan_iter(_type="stream")) == {key.encode() for key in keys}
        consumer = Consumer(client, Group(stream="orders", shards=4, group="billing"))

        def handle(one: Received) -> None:
            got.append(one.json()["n"])
            if len(got) == 20:
                consumer.stop()

        consumer.run(handle)
    assert sorted(got) == list(range(20))
    with psycopg.connect(database_url) as connection:
        assert relay_once(database_url, redis_url) == []
        add_event(connection, event(30))
        connection.commit()
        assert [each.stream[:5] for each in relay_once(database_url, redis_url, stream="other")] == ["order"]
    monkeypatch.setenv("DISPATCH_STREAM_SHARDS", "3")
    with pytest.raises(Misconfigured, match="DISPATCH_STREAM_SHARDS"):
        relay_once(database_url, redis_url)


def test_more_than_a_batch(database_url: str, redis_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) "
            "SELECT 'a', 'b', jsonb_build_object('n', n) FROM generate_series(1, 1200) AS n"
        )
    assert numbers(relay_once(database_url, redis_url)) == list(range(1, 1201))


def test_an_event_that_cannot_be_published_is_an_error(database_url: str, redis_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        add_event(connection, Event(event_type="a", aggregate_id="b", payload="x" * 2_000_000))
    with pytest.raises(NotPublished, match=r"not published: 1 event: payload is"):
        relay_once(database_url, redis_url)


def test_an_event_that_somebody_holds_is_an_error(database_url: str, redis_url: str) -> None:
    with psycopg.connect(database_url) as connection, psycopg.connect(database_url) as other:
        add_event(connection, event(1))
        connection.commit()
        other.execute("SELECT FROM messaging.message_outbox FOR UPDATE")
        with pytest.raises(NotPublished, match="1 due event cannot be claimed"):
            relay_once(database_url, redis_url)


GROUP = Group(stream="sanctum:messages", group="billing")


def test_a_consumer_takes_one_event(redis_url: str) -> None:
    got: list[str] = []
    with redis.Redis.from_url(redis_url) as client:
        consumer = Consumer(client, GROUP, dedup=RedisDedupStore(client, "billing"))

        @consumer.on("order.*")
        def order(event: Received) -> None:
            if event.json()["n"] == 13:
                raise Retry("later")
            got.append(event.aggregate_id)

        one = event(1)
        assert [run_one(consumer, one), run_one(consumer, one)] == ["handled", "known"]
        with pytest.raises(Retry):
            run_one(consumer, event(13))
        assert run_one(consumer, Event(event_type="mail.sent", aggregate_id="2", payload={})) == "ignored"
        assert run_one(consumer, received(event(3)), lambda event: None) == "handled"
    assert got == ["1", "3"]


async def test_an_async_consumer_takes_one_event(redis_url: str) -> None:
    got: list[str] = []
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        consumer = AsyncConsumer(client, GROUP)

        @consumer.on("order.*", timeout=timedelta(milliseconds=1))
        async def order(event: Received) -> None:
            import anyio

            if event.json()["n"] == 13:
                await anyio.sleep_forever()
            got.append(event.aggregate_id)

        assert await run_one_async(consumer, event(1)) == "handled"
        with pytest.raises(FunctionTooSlow):
            await run_one_async(consumer, event(13))
    assert got == ["1"]


def run_pytest(folder: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-W", "error"]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), "-c", "/dev/null", str(folder), *arguments],
        capture_output=True, text=True, check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that the page shows."""
    text = page("how-to/test-your-code.md")
    for heading in ("The fixtures", "The tests", "Roll back with SQLAlchemy", "A consumer"):
        [shown] = blocks(heading, "python", text)
        name = shown.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(shown)
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]])
def test_the_page_runs(project: Path, arguments: list[str]) -> None:
    assert "5 passed" in run_pytest(project, *arguments)


def test_a_connection_that_the_preparation_left_open_is_in_nobodys_way(database_url: str, redis_url: str) -> None:
    """A database that is in use cannot be copied."""
    left: list[psycopg.Connection[Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTBOX_TEST_DATABASE_URL", database_url)
        patch.setenv("OUTBOX_TEST_REDIS_URL", redis_url)
        with (
            Servers(lambda url: left.append(psycopg.connect(url))) as servers,
            servers.database() as url,
            psycopg.connect(url) as connection,
        ):
            add_event(connection, event(1))
    left[0].close()


def test_servers_that_are_given_are_used(project: Path, database_url: str, redis_url: str) -> None:
    """Nothing is started, and what the given Redis holds stays."""
    (project / "test_it.py").write_text(
        "import os\n"
        "def test_it(outbox, outbox_servers):\n"
        "    assert outbox_servers.postgres_url == os.environ['OUTBOX_TEST_DATABASE_URL']\n"
        "    assert outbox.redis_url == os.environ['OUTBOX_TEST_REDIS_URL']\n"
        "    assert '_folder' not in vars(outbox_servers)\n"
    )
    with redis.Redis.from_url(redis_url) as client:
        client.set("kept", "1")
        found = run_pytest(project, OUTBOX_TEST_DATABASE_URL=database_url, OUTBOX_TEST_REDIS_URL=redis_url)
        assert "6 passed" in found
        assert client.get("kept") == b"1"
    with psycopg.connect(database_url) as connection:
        left = connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'outbox_test_%'").fetchone()
        assert left == (0,)


def test_an_import_loads_no_pytest_and_no_library() -> None:
    program = "import sys, dispatcher.testing; print({'pytest', 'django', 'sqlalchemy', 'asyncpg'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
