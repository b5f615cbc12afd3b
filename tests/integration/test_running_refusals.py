"""What a server refuses while the dispatcher runs: no row pays for it, and what can be replaced is."""

import re
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import (
    BreakerChanged,
    DatabaseChanged,
    PruneRefused,
    Published,
    Settled,
    Slept,
    Started,
    Stopped,
)
from dispatcher.infra.postgres import session as database
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis import search as find_module
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.service import Service
from dispatcher.settings import Settings
from tests.support.postgres import StartPostgres
from tests.support.proxy import Direction, Filter, StartProxy
from tests.support.rows import STREAM, insert_events, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.tap import Tap
from tests.support.waiting import until

Db = psycopg.AsyncConnection[Any]


class BehindAProxy:
    """Makes filters that answer each XADD as a managed proxy does whose Redis is away."""

    def __init__(self) -> None:
        self.away = False

    def __call__(self) -> Filter:
        def pass_on(direction: Direction, data: bytes) -> bytes:
            if self.away and direction == "to_client":
                data = re.sub(
                    rb"(\$\d+\r\n\d+-\d+|-ERR The ID specified[^\r]*)\r\n", b"-ERR upstream failure\r\n", data
                )
            return data

        return pass_on


@pytest.mark.promise("redis-outage")
async def test_an_unknown_error_for_everything_is_the_sinks(
    dispatcher: StartDispatcher, db: Db, redis_url: str, proxy: StartProxy
) -> None:
    through, managed = await proxy(redis_url), BehindAProxy()
    through.make_filter = managed
    async with dispatcher(redis_url=through.via(redis_url), tick_ms=50) as running:
        await insert_events(db)
        await running.tap.next(Published)
        managed.away = True
        await insert_events(db, 3)
        await running.tap.next(BreakerChanged, lambda event: event.state == "open")
        managed.away = False
        await running.tap.next(BreakerChanged, lambda event: event.state == "closed")
    assert {row["attempts"] for row in await read_table(db)} == {0}


async def test_writers_need_not_ring_while_no_lane_has_a_session(
    dispatcher: StartDispatcher, db: Db, database_url: str, proxy: StartProxy
) -> None:
    through = await proxy(database_url)
    async with dispatcher(database_url=through.via(database_url), listen_url=database_url, tick_ms=200) as running:
        await running.tap.next(Slept, lambda event: event.holds_key)
        through.refuse()
        through.cut()
        await insert_events(db)  # rings: each lane finds out

        async def free() -> bool:
            rows = await db.execute("SELECT pg_try_advisory_xact_lock_shared(1869968482, 1)")
            return bool((await rows.fetchall())[0][0])

        await until(free, "the doorbell's key is let go")
        await through.restore()
        await running.tap.next(Settled, lambda event: event.sent == 1)


async def test_notices_nobody_reads_do_not_pile_up(database_url: str, db: Db) -> None:
    session = await connect(PostgresTarget(database_url, "test"), "control")
    await session.fetch("LISTEN somebody")
    for first in range(0, 3000, 1000):
        await db.execute(
            "SELECT pg_notify('somebody', i::text) FROM generate_series(%s::int, %s) AS i", (first, first + 999)
        )
        await session.fetch("SELECT 1")
    notices = session.drain_notifications()
    assert 0 < len(notices) <= database.MAX_NOTIFICATIONS
    assert notices[-1][1] == "2999"
    await session.close()


async def test_a_primary_that_becomes_read_only_is_left(own_postgres: StartPostgres, redis_url: str) -> None:
    """As in a failover behind one address: the sessions live on, and refuse every write (SQLSTATE 25006)."""
    server = own_postgres()
    await migrate(server.url())
    tap = Tap()
    settings = Settings(
        enabled=True, database_url=server.url(), redis_url=redis_url, tick_ms=100, http_enabled=False, log_level="ERROR"
    )
    service = Service(settings, tap)
    async with (
        await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as db,
        anyio.create_task_group() as tasks,
    ):
        await db.execute("SET default_transaction_read_only = off")
        tasks.start_soon(service.run)
        await tap.next(Started)
        await insert_events(db)
        await tap.next(Settled, lambda event: event.sent == 1)
        await db.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await db.execute("SELECT pg_reload_conf()")
        await insert_events(db)
        down = await tap.next(DatabaseChanged, lambda event: not event.up, timeout=60)
        assert "25006" in str(down.reason) or "read-only" in str(down.reason)
        await db.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await db.execute("SELECT pg_reload_conf()")
        await tap.next(Settled, lambda event: event.sent == 1, timeout=60)
        service.stop("the test is over")


async def test_the_grace_ends_though_a_statement_does_not(database_url: str, redis_url: str, db: Db) -> None:
    """What is in flight is shielded; when the grace is over its session is ended under it."""
    tap = Tap()
    settings = Settings(
        enabled=True,
        database_url=database_url,
        redis_url=redis_url,
        tick_ms=100,
        http_enabled=False,
        log_level="ERROR",
        shutdown_grace_ms=300,
        query_timeout_ms=600_000,
    )
    service = Service(settings, tap)
    async with await psycopg.AsyncConnection.connect(database_url) as other, anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        await tap.next(Started)
        await other.execute("LOCK TABLE messaging.message_outbox IN ACCESS EXCLUSIVE MODE")

        async def waits() -> bool:
            rows = await db.execute(
                "SELECT 1 FROM pg_locks WHERE relation = 'messaging.message_outbox'::regclass AND NOT granted"
            )
            return bool(await rows.fetchall())

        await until(waits, "a statement waits for the lock")
        service.stop("the test is over")
        with anyio.fail_after(60):
            await tap.next(Stopped, timeout=60)
    assert service.exit_code == 1


async def test_the_grace_ends_though_postgres_hears_no_goodbye(
    dispatcher: StartDispatcher, database_url: str, proxy: StartProxy
) -> None:
    through = await proxy(database_url)
    url = f"{through.via(database_url)}?sslmode=disable"
    async with dispatcher(database_url=url, shutdown_grace_ms=300, query_timeout_ms=12_000) as running:
        await running.tap.next(Slept)
        through.stall()
    assert running.service.exit_code == 1  # 0: it waited until the statement's own time was over


async def test_a_look_reads_no_more_at_once_than_a_slow_network_carries(redis: "Redis", redis_url: str) -> None:
    """It begins with one entry, for nothing is known of their size, and never reads more than 200."""
    redis_connection = RedisConnection(
        RedisTarget.parse(redis_url), name="us", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
    )
    await redis_connection.connect()
    for number in range(450):
        await redis.xadd(STREAM, {"event_id": f"e{number}"})
    sizes = [len(page) async for page in find_module.read_pages(redis_connection, STREAM, "0-0", 30.0)]
    assert (sizes[0], sum(sizes)) == (1, 450)
    assert 1 < max(sizes) <= 200
    redis_connection.close()


def test_an_address_that_may_hold_the_password_is_not_shown() -> None:
    """libpq takes what stands before the first @ for the user, so the end of such a password is the host's begin."""
    said = PostgresTarget("postgresql://app:p@ssw0rd@db:5432/app", "test").address()
    assert "ssw0rd" not in said
    assert "%40" in said


async def test_a_right_that_is_taken_away_costs_nothing(dispatcher: StartDispatcher, db: Db, database_url: str) -> None:
    await db.execute(
        "DO $$ BEGIN CREATE ROLE outbox_test LOGIN SUPERUSER; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    try:
        async with dispatcher(database_url=database_url.replace("postgres@", "outbox_test@"), tick_ms=100) as running:
            await db.execute("ALTER ROLE outbox_test NOSUPERUSER")
            await insert_events(db, 2)
            await until(lambda: refused(running.tap), "a claim is refused")
            assert await statuses(db) == {"pending": 2}
            await db.execute("ALTER ROLE outbox_test SUPERUSER")
            await running.tap.next(Settled, lambda event: event.sent == 2, timeout=60)
        assert {row["attempts"] for row in await read_table(db)} == {0}
    finally:
        await db.execute("DROP ROLE outbox_test")


async def refused(tap: Tap) -> bool:
    return any("42501" in str(getattr(event, "error", "")) for event in tap.seen)


async def test_a_table_that_is_locked_holds_up_the_chores_only(
    dispatcher: StartDispatcher, db: Db, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    async with await psycopg.AsyncConnection.connect(db.info.dsn, password=db.info.password or None) as builder:
        await builder.execute("LOCK TABLE messaging.message_dlq IN SHARE MODE")  # as CREATE INDEX does
        async with dispatcher(redis_url=through.via(redis_url)) as running:
            refused = await running.tap.next(PruneRefused)  # not the statement's timeout of 30 s
            assert "55P03" in refused.reason
            through.cut()  # the new connection is verified on the session that guards publishing
            await insert_events(db)
            await running.tap.next(Published)
