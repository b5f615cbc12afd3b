"""A session whose connection delivers nothing any more: found without its deadline, and ended on the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from urllib.parse import urlsplit

import anyio
import psycopg
import pytest

from dispatcher.core.errors import SessionLost
from dispatcher.infra.postgres.reconnecting import PrepareSession, ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.upkeep.unanswered import watch_unanswered
from tests.support.proxy import Proxy
from tests.support.waiting import until

NEVER_S = 600.0  # the deadline of a statement: no test waits for it
KEY = 4711


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """Before this test's Postgres."""
    parts = urlsplit(database_url)
    between = Proxy(parts.hostname or "", parts.port or 5432)
    await between.start()
    yield between
    await between.stop()


@asynccontextmanager
async def kept(url: str, purpose: str = "lane", prepare: PrepareSession | None = None) -> AsyncIterator[Any]:
    """A session that is kept open, and the scope that ends it."""
    target = PostgresTarget(url, "unanswered", connect_timeout_s=30.0, query_timeout_s=NEVER_S)
    postgres = ReconnectingSession(target, purpose, rng=Random(1))
    if prepare is not None:
        postgres.prepare(prepare)
    async with anyio.create_task_group() as tasks:
        await tasks.start(postgres.keep)
        yield postgres
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def watched(*sessions: ReconnectingSession) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: watch_unanswered(sessions, silent_s=0.2, look_every_s=0.05))
        yield
        tasks.cancel_scope.cancel()


async def test_one_session_that_went_silent_is_lost_and_another_opened(database_url: str, proxy: Proxy) -> None:
    async with kept(database_url, "control") as control, kept(proxy.via(database_url)) as lane:
        silent = await lane.get()
        proxy.lose_links()
        async with watched(control, lane):
            with anyio.fail_after(60), pytest.raises(SessionLost, match="does nothing for this session"):
                await silent.fetch("SELECT 1")
            assert await (await lane.get()).fetch("SELECT 1") == [(1,)]
        proxy.cut_lost()


async def test_a_statement_that_the_server_works_on_is_left_alone(database_url: str) -> None:
    async with kept(database_url, "control") as control, kept(database_url) as lane, watched(control, lane):
        session = await lane.get()
        assert await session.fetch("SELECT 1 FROM pg_sleep(1)") == [
            (1,)
        ]  # five times as long as a session may be silent
        assert lane.session is session


async def test_the_one_that_is_asked_is_no_session_that_waits_itself(database_url: str, proxy: Proxy) -> None:
    """The first of them is silent too; the third one tells of both."""
    url = proxy.via(database_url)
    async with kept(url, "control") as first, kept(url) as second, kept(database_url, "upkeep") as third:
        silent = [await first.get(), await second.get()]
        proxy.lose_links()

        async def ask(session: Session) -> None:
            with pytest.raises(SessionLost):
                await session.fetch("SELECT 1")

        async with watched(first, second, third):
            with anyio.fail_after(60):
                async with anyio.create_task_group() as asking:
                    for session in silent:
                        asking.start_soon(ask, session)
        proxy.cut_lost()


async def test_the_locks_of_a_session_that_went_silent_are_free_for_the_next(database_url: str, proxy: Proxy) -> None:
    """The proxy keeps its side open: the server is never told."""
    async with kept(proxy.via(database_url)) as upkeep:
        assert await (await upkeep.get()).fetch(f"SELECT pg_try_advisory_lock({KEY})") == [(True,)]
        proxy.lose_links()
        upkeep.replace("silent")
        again = await upkeep.get()
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:

            async def free() -> bool:
                cursor = await other.execute("SELECT pg_try_advisory_lock(%s)", [KEY])
                return await cursor.fetchone() == (True,)

            await until(free, "the lock is free")
        assert again is not None
        proxy.cut_lost()


@asynccontextmanager
async def stuck_in_preparation(url: str, proxy: Proxy) -> AsyncIterator[tuple[ReconnectingSession, list[int]]]:
    """The second session goes silent while it is prepared; the number of preparations begun."""
    begun = [0]

    async def prepare(session: Session) -> None:
        begun[0] += 1
        if begun[0] == 2:
            proxy.lose_links()
        await session.fetch("SELECT 1")

    async with kept(proxy.via(url), prepare=prepare) as lane:
        lane.replace("anew")

        async def stuck() -> bool:
            return begun[0] == 2 and lane.opening is not None and lane.opening.silent_s > 0

        await until(stuck, "it is being prepared, and waits")
        yield lane, begun
    proxy.cut_lost()


async def test_a_session_that_goes_silent_while_it_is_prepared_is_replaced(database_url: str, proxy: Proxy) -> None:
    async with stuck_in_preparation(database_url, proxy) as (lane, begun):
        lane.replace("the server is gone")
        with anyio.fail_after(60):
            assert await (await lane.get()).fetch("SELECT 1") == [(1,)]
        assert begun[0] == 3


async def test_it_holds_up_no_end_meanwhile(database_url: str, proxy: Proxy) -> None:
    with anyio.fail_after(60):
        async with stuck_in_preparation(database_url, proxy) as (lane, _):
            assert lane.session is None


async def test_a_session_that_is_given_up_as_its_preparation_ends_is_not_used(database_url: str) -> None:
    """Its last answer is here already, so no step fails."""
    begun = 0

    async def prepare(session: Session) -> None:
        nonlocal begun
        begun += 1
        assert await session.fetch("SELECT 1") == [(1,)]
        if begun == 2:
            lane.replace("the server of another session is gone")

    async with kept(database_url, prepare=prepare) as lane:
        lane.replace("anew")
        with anyio.fail_after(60):
            assert await (await lane.get()).fetch("SELECT 1") == [(1,)]
        assert begun == 3
