"""dispatcher.client.inbox: an event is done once, in the transaction that does the work, with every library alike."""

import threading
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from anyio import to_thread
from django.db import connections, transaction
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from dispatcher.client import NoTransaction, django, sqlalchemy
from dispatcher.client import asyncpg as of_asyncpg
from dispatcher.client.inbox import (
    create_table,
    create_table_async,
    first_time,
    first_time_async,
    forget,
    forget_async,
)

EVENT = uuid.uuid4()


@pytest.fixture
def url(empty_database_url: str) -> str:
    """A consumer's own database: nothing of the outbox is in it."""
    with psycopg.connect(empty_database_url) as connection:
        create_table(connection)
        create_table(connection)
    return empty_database_url


def with_psycopg(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return first_time(connection, "billing", EVENT)


def with_sqlalchemy(url: str) -> bool:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with Session(engine) as session, session.begin():
        return sqlalchemy.first_time(session, "billing", EVENT)


@pytest.mark.promise("once")
@pytest.mark.parametrize("ask", [with_psycopg, with_sqlalchemy])
def test_only_the_first_time_that_is_committed_counts(ask: Callable[[str], bool], url: str) -> None:
    with psycopg.connect(url) as connection:
        assert first_time(connection, "billing", EVENT)
        connection.rollback()
    assert [ask(url), ask(url)] == [True, False]
    with psycopg.connect(url) as connection:
        assert first_time(connection, "mailing", EVENT)


def test_the_same_in_django(django_alias: str, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        create_table(connection)
    for expected in (True, False):
        with transaction.atomic(using=django_alias):
            assert django.first_time("billing", EVENT, using=django_alias) is expected
    with pytest.raises(NoTransaction):
        django.first_time("billing", EVENT, using=django_alias)


OLD = timedelta(days=30)


async def by_psycopg(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        create_table(connection)
        return [first_time(connection, "a", EVENT), forget(connection, -OLD), forget(connection, OLD)]


async def by_async_psycopg(url: str) -> list[int]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await create_table_async(connection)
        known = await first_time_async(connection, "a", EVENT)
        return [known, await forget_async(connection, -OLD), await forget_async(connection, OLD)]


async def by_asyncpg(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await of_asyncpg.create_table(connection)
        known = await of_asyncpg.first_time(connection, "a", EVENT)
        found = [known, await of_asyncpg.forget(connection, -OLD), await of_asyncpg.forget(connection, OLD)]
    await connection.close()
    return found


async def by_sqlalchemy(url: str) -> list[int]:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with Session(engine) as session, session.begin():
        sqlalchemy.create_table(session)
        known = sqlalchemy.first_time(session, "a", EVENT)
        return [known, sqlalchemy.forget(session, -OLD), sqlalchemy.forget(session, OLD)]


async def by_sqlalchemy_on_asyncpg(url: str) -> list[int]:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        await sqlalchemy.create_table_async(session)
        known = await sqlalchemy.first_time_async(session, "a", EVENT)
        return [known, await sqlalchemy.forget_async(session, -OLD), await sqlalchemy.forget_async(session, OLD)]


@pytest.mark.parametrize("by", [by_psycopg, by_async_psycopg, by_asyncpg, by_sqlalchemy, by_sqlalchemy_on_asyncpg])
async def test_every_library_makes_the_table_and_forgets(
    by: Callable[[str], Awaitable[list[object]]], empty_database_url: str
) -> None:
    assert await by(empty_database_url) == [True, 1, 0]
    assert await by(empty_database_url) == [True, 1, 0], "the table is there already"


def test_django_makes_the_table_and_forgets(django_alias: str) -> None:
    for _ in range(2):
        django.create_table(using=django_alias)
        with transaction.atomic(using=django_alias):
            assert django.first_time("a", EVENT, using=django_alias)
        assert [django.forget(old, using=django_alias) for old in (-OLD, OLD)] == [1, 0]


async def test_the_same_on_the_loop(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await first_time_async(connection, "billing", EVENT)
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        assert not await sqlalchemy.first_time_async(session, "billing", EVENT)
        assert await sqlalchemy.first_time_async(session, "billing", uuid.uuid4())
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        with pytest.raises(NoTransaction):
            await first_time_async(connection, "billing", EVENT)


async def test_what_no_event_can_be_is_refused_before_the_database_sees_it(url: str, django_alias: str) -> None:
    """An error of the server would spoil the transaction, and each driver has another one."""
    text = "secret"
    source = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    raw = await asyncpg.connect(url)

    def in_django(consumer: Any, event_id: Any) -> bool:
        try:
            with transaction.atomic(using=django_alias):
                return django.first_time(consumer, event_id, using=django_alias)
        finally:
            connections[django_alias].close()  # that of this thread

    with psycopg.connect(url) as blocking:
        async with (
            await psycopg.AsyncConnection.connect(url) as turning,
            AsyncSession(source) as session,
            raw.transaction(),
        ):
            asked: list[Callable[[Any, Any], Any]] = [
                lambda *arguments: first_time(blocking, *arguments),
                lambda *arguments: first_time_async(turning, *arguments),
                lambda *arguments: of_asyncpg.first_time(raw, *arguments),
                lambda *arguments: sqlalchemy.first_time_async(session, *arguments),
                lambda *arguments: to_thread.run_sync(in_django, *arguments),
            ]
            for ask in asked:
                for consumer, event, error, words in (
                    ("c", text, ValueError, "event_id must be a UUID"),
                    ("c", 1, TypeError, "event_id must be a UUID, not int"),
                    ("c\0", EVENT, ValueError, "consumer must hold no NUL"),
                    (None, EVENT, TypeError, "consumer must be the name of a consumer"),
                ):
                    with pytest.raises(error, match=words) as refused:
                        await ask(consumer, event)
                    assert (text in str(refused.value), refused.value.__cause__) == (False, None)
            assert first_time(blocking, "c", EVENT), "its transaction goes on"
            assert await of_asyncpg.first_time(raw, "other", str(EVENT))  # type: ignore[arg-type]
    await raw.close()


@pytest.mark.promise("once")
def test_a_second_transaction_waits_for_the_first(url: str) -> None:
    answers: list[bool] = []
    with psycopg.connect(url) as first, psycopg.connect(url) as second:
        assert first_time(first, "billing", EVENT)
        waiter = threading.Thread(target=lambda: answers.append(first_time(second, "billing", EVENT)))
        waiter.start()
        with psycopg.connect(url, autocommit=True) as other:
            waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
            while other.execute(waiting, [second.info.backend_pid]).fetchone() != (True,):
                assert waiter.is_alive()
        assert answers == []
        first.commit()
        waiter.join()
    assert answers == [False]


def test_what_is_old_is_forgotten_a_bit_at_a_time(url: str) -> None:
    with psycopg.connect(url) as connection:
        for _ in range(3):
            first_time(connection, "billing", uuid.uuid4())
        connection.execute("UPDATE handled_event SET handled_at = now() - INTERVAL '31 days'")
        assert first_time(connection, "billing", EVENT)
        assert [forget(connection, timedelta(days=30), limit=2) for _ in range(2)] == [2, 1]
        assert not first_time(connection, "billing", EVENT)
    with psycopg.connect(url, autocommit=True) as connection, pytest.raises(NoTransaction):
        first_time(connection, "billing", EVENT)


@pytest.mark.promise("once")
async def test_in_a_pipeline_it_is_known_as_well(url: str) -> None:
    """There the count of rows is not known: each event would count as handled before, and be lost."""
    raw = psycopg.RawCursor
    with psycopg.connect(url, row_factory=dict_row, cursor_factory=raw) as connection, connection.pipeline():
        assert [first_time(connection, "billing", EVENT) for _ in range(2)] == [True, False]
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as turning, turning.pipeline():
        assert [await first_time_async(turning, "mailing", EVENT) for _ in range(2)] == [True, False]
    with psycopg.connect(url, autocommit=True) as connection, connection.pipeline():
        with pytest.raises(NoTransaction):
            first_time(connection, "reports", EVENT)
        connection.execute("SELECT 1")
        with pytest.raises(NoTransaction):
            first_time(connection, "reports", EVENT)
        with connection.transaction():
            assert first_time(connection, "reports", EVENT)


def test_many_make_the_table_at_once(empty_database_url: str) -> None:
    together = threading.Barrier(10)

    def start(_: int) -> None:
        with psycopg.connect(empty_database_url) as connection:
            together.wait()
            create_table(connection)

    with ThreadPoolExecutor(10) as pool:
        for _ in range(5):
            list(pool.map(start, range(10)))
            with psycopg.connect(empty_database_url) as connection:
                connection.execute("DROP TABLE handled_event")


def test_who_may_not_create_and_who_works_meanwhile(url: str) -> None:
    """The table is there: nothing is needed, and nobody is held up."""
    with psycopg.connect(url, autocommit=True) as admin:
        role = f"reader_{uuid.uuid4().hex}"
        admin.execute(f"CREATE ROLE {role}; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        try:
            with psycopg.connect(url) as working, psycopg.connect(url) as starting:
                assert first_time(working, "billing", EVENT)  # a handler at work
                starting.execute(f"SET ROLE {role}; SET lock_timeout = '1s'")
                create_table(starting)
        finally:
            admin.execute(f"DROP ROLE {role}")
