"""A pooler is tried: one that keeps sessions is as good as none, one that does not is found out."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import anyio
import psycopg
import pytest

from dispatcher.core.errors import Misconfigured, NoConnectionLeft
from dispatcher.core.events import SessionMissing, Settled, SlotsChanged
from dispatcher.infra.postgres import pooler as pooler_module
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.pooler import PoolerCheck
from dispatcher.infra.postgres.precedence import Precedence
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.target import PostgresTarget
from tests.support.command import RunCommand
from tests.support.pgbouncer import listens_at, pgbouncer
from tests.support.rows import insert_events, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes, until

StartPooler = Callable[..., str]


@pytest.fixture
def pooler(tmp_path_factory: pytest.TempPathFactory, server_folder: Path, database_url: str) -> Iterator[StartPooler]:
    with ExitStack() as stack:

        def start(mode: str, options: str = "") -> str:
            folder = server_folder / f"pgbouncer-{tmp_path_factory.mktemp(mode).name}-{database_url.rpartition('/')[2]}"
            started: AbstractContextManager[str] = pgbouncer(
                folder, database_url, user="postgres", mode=mode, options=options
            )
            return stack.enter_context(started)

        yield start


async def test_one_that_keeps_sessions_is_as_good_as_none(pooler, db):
    url = pooler("session")
    await until(partial(listens_at, url), "the pooler listens")
    target = PostgresTarget(url, "test", query_timeout_s=7.0, pooler_check=PoolerCheck())
    first, second = await connect(target, "control"), await connect(target, "lane")
    for session in (first, second):
        assert (session.pooled, session.behind_pooler) == (False, True)
        assert await session.fetch("SELECT pg_backend_pid()") == [(session.backend_pid,)]
        assert await session.fetch("SHOW statement_timeout") == [("7s",)]
    await first.fetch("LISTEN here")
    await db.execute("NOTIFY here")

    async def heard() -> bool:
        return any(channel == "here" for channel, _, _ in first.drain_notifications())

    await until(heard, "it hears")
    for session in (first, second):
        await session.close()


@pytest.mark.parametrize("options", ["", "server_round_robin = 1\nmin_pool_size = 3"], ids=["one", "in turn"])
async def test_one_that_pools_transactions_is_found_out(pooler, options):
    """Also while it has little to do, when each transaction meets the same server connection."""
    url = pooler("transaction", options)
    await until(partial(listens_at, url), "the pooler listens")
    target = PostgresTarget(url, "test", query_timeout_s=7.0, pooler_check=PoolerCheck())
    session = await connect(target, "control")
    assert (session.pooled, session.behind_pooler) == (True, True)
    assert await session.fetch("SHOW statement_timeout") == [("0",)]  # else others would find our settings
    await session.close()


async def test_one_without_a_server_connection_left_is_not_waited_for(pooler):
    url = pooler("session", "default_pool_size = 1")
    await until(partial(listens_at, url), "the pooler listens")
    target = PostgresTarget(url, "test", pooler_check=PoolerCheck(), connect_timeout_s=30.0)
    session = await connect(target, "control")
    assert session.pooled  # not proven
    assert "without a server connection for a second session" in session.pooler
    with pytest.raises(NoConnectionLeft, match=r"took the connection, and answered nothing within 3 s.*pool_size"):
        await connect(replace(target, connect_timeout_s=3.0), "lane")
    await session.close()


async def test_what_was_proven_stays_so_while_there_is_no_room_to_prove_it_again(pooler, monkeypatch):
    monkeypatch.setattr(pooler_module, "KNOWN_S", 0.0)
    url = pooler("session", "default_pool_size = 2")
    await until(partial(listens_at, url), "the pooler listens")
    target = PostgresTarget(url, "test", pooler_check=PoolerCheck(), connect_timeout_s=30.0)
    first, second = await connect(target, "control"), await connect(target, "lane")
    assert [session.pooled for session in (first, second)] == [False, False]
    for session in (first, second):
        await session.close()


async def test_one_with_room_for_two_sessions(pooler, db, dispatcher: StartDispatcher, command: RunCommand):
    """It takes every client, and lets the first statement of most of them wait."""
    url = pooler("session", "default_pool_size = 2")
    await until(partial(listens_at, url), "the pooler listens")
    said = (await command("doctor", "--database-url", url))[1]
    assert "transaction pooler" not in said
    assert "a notification was heard" in said
    async with dispatcher(database_url=url, tick_ms=100, connect_timeout_ms=3000, wait=False):
        await insert_events(db, 20)
        await becomes(lambda: statuses(db), {"sent": 20})


async def test_a_connection_that_was_given_up_goes_to_whom_it_was_given_up_for(pooler):
    """PgBouncer gives it to the client that waits longest. If that one kept it, who comes first would wait for ever."""
    url = pooler("session", "default_pool_size = 1\nadmin_users = postgres")
    await until(partial(listens_at, url), "the pooler listens")
    patient = PostgresTarget(url, "test", pooler_check=PoolerCheck(), connect_timeout_s=60.0)
    first = ReconnectingSession(replace(patient, connect_timeout_s=1.0), "first", rng=Random(1))
    queued, last = (ReconnectingSession(patient, purpose, rng=Random(1)) for purpose in ("queued", "last"))
    precedence = Precedence([first, queued, last], lambda purpose, reason: None)
    for each in (first, queued, last):
        each.precedence = precedence
    console = await psycopg.AsyncConnection.connect(
        url.rpartition("/")[0] + "/pgbouncer", autocommit=True, cursor_factory=psycopg.AsyncClientCursor
    )

    async def is_queued() -> bool:
        cursor = await console.execute("SHOW POOLS")
        names = [each.name for each in cursor.description or ()]
        return any(row[names.index("cl_waiting")] for row in await cursor.fetchall())

    async with console, anyio.create_task_group() as tasks:
        await tasks.start(last.keep)
        tasks.start_soon(queued.keep)
        await until(is_queued, "it waits in the pooler's queue")
        tasks.start_soon(first.keep)
        await until(lambda: first.session is not None, "who comes first has a session")
        tasks.cancel_scope.cancel()


async def test_one_that_takes_two_clients_only(pooler, db, dispatcher: StartDispatcher):
    """It refuses with a code that it has for everything, also for a server that is away."""
    url = pooler("session", "max_client_conn = 2")
    await until(partial(listens_at, url), "the pooler listens")
    async with dispatcher(database_url=url, tick_ms=100):
        await insert_events(db, 20)

        async def sent() -> bool:
            cursor = await db.execute("SELECT FROM messaging.message_outbox WHERE status = 'sent'")
            return bool(cursor.rowcount == 20)

        await until(sent, "all are sent")


async def test_the_direct_path_has_room_for_two_sessions(pooler, db, database_url, dispatcher: StartDispatcher):
    """Those that matter most get them. Lanes, which have another path, give nothing up: it would not help."""
    url = pooler("session", "default_pool_size = 2")
    await until(partial(listens_at, url), "the pooler listens")
    settings = {"database_url": database_url, "listen_url": url, "connect_timeout_ms": 1000}
    async with dispatcher(**settings, tick_ms=100, wait=False) as running:
        sessions = running.service._sessions
        await running.tap.next(SessionMissing, lambda event: event.session == "chores")
        await until(lambda: sessions.upkeep.session and sessions.control.session, "the two that matter most are there")
        await insert_events(db, 20)
        await running.tap.add_up(Settled, sent=20)
        assert {event.session for event in running.tap.all(SessionMissing)} <= {"upkeep", "control", "chores"}
        assert all(lane.session for lane in sessions.lanes)


async def test_one_that_pools_statements_does_too(pooler, db, database_url, dispatcher: StartDispatcher):
    """It refuses transactions of several statements; each of ours is one."""
    url = pooler("statement")
    await until(partial(listens_at, url), "the pooler listens")
    async with dispatcher(database_url=url, listen_url=database_url) as running:
        await insert_events(db, 20)
        await running.tap.add_up(Settled, sent=20)


async def test_in_order_one_behind_a_pooler_owns_nothing_and_another_goes_on(
    pooler, db, database_url, dispatcher: StartDispatcher
):
    """It could not be fenced, so it refuses to start; who is there owns all slots as before."""
    url = pooler("transaction")
    await until(partial(listens_at, url), "the pooler listens")
    in_order = {"order": "aggregate", "tick_ms": 100}
    async with dispatcher(**in_order) as running:
        with pytest.raises(ExceptionGroup) as raised:
            async with dispatcher(**in_order, database_url=url, listen_url=database_url, wait=False) as pooled:
                await pooled.tap.next(SlotsChanged)
        assert raised.group_contains(Misconfigured, match="leads through a transaction pooler")
        await insert_events(db, 5, aggregate_id="a")
        await running.tap.add_up(Settled, sent=5)
        cursor = await db.execute(
            "SELECT count(*), count(DISTINCT owner) FROM messaging.slot_owner WHERE owner IS NOT NULL"
        )
        assert await cursor.fetchall() == [(256, 1)]
