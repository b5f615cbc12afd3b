"""What is told of a state is looked at, also while paused; what is not looked at any more is not told any more."""

from typing import Any

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from redis.asyncio import Redis

from dispatcher.core.events import BackpressureChanged, BreakerChanged, DatabaseChanged, PauseChanged, Sampled, Settled
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.upkeep import gauges
from dispatcher.upkeep.gauges import GaugesTiming
from tests.support.command import RunCommand
from tests.support.proxy import StartProxy
from tests.support.rows import STREAM, insert_events
from tests.support.running import PATIENT, StartDispatcher
from tests.support.tap import Tap
from tests.support.waiting import until

Db = psycopg.AsyncConnection[Any]


@pytest.mark.promise("pause")
async def test_an_outage_of_redis_ends_while_paused(
    dispatcher: StartDispatcher, command: RunCommand, db: Db, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    async with dispatcher(redis_url=through.via(redis_url), **PATIENT) as running:
        await insert_events(db, 1)
        await running.tap.add_up(Settled, sent=1)
        through.refuse()
        through.cut()
        assert (await running.tap.next(BreakerChanged)).state == "open"
        assert (await command("pause"))[0] == 0
        assert (await running.tap.next(PauseChanged)).paused
        await through.restore()
        assert (await running.tap.next(BreakerChanged)).state == "closed"
        through.refuse()  # and one that begins meanwhile is seen
        through.cut()
        assert (await running.tap.next(BreakerChanged)).state == "open"
        await through.restore()
        assert (await running.tap.next(BreakerChanged)).state == "closed"
        assert (await command("resume"))[0] == 0


async def test_a_refusal_of_redis_ends_without_a_row_to_try_it_with(
    dispatcher: StartDispatcher, db: Db, own_valkey: Any
) -> None:
    """Another dispatcher took the rows, or none is due: the console would go on to say that Redis takes no entries."""
    server = own_valkey()
    async with Redis.from_url(server.url) as redis, dispatcher(redis_url=server.url, tick_ms=20) as running:
        await redis.config_set("maxmemory", "1")
        await insert_events(db, 1)
        assert (await running.tap.next(BreakerChanged)).state == "open"
        await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() + interval '1 hour'")
        await redis.config_set("maxmemory", "0")
        assert (await running.tap.next(BreakerChanged)).state == "closed"
        assert await redis.xlen(STREAM) == 0


@pytest.mark.promise("pause")
async def test_a_refusal_of_redis_ends_while_paused(
    dispatcher: StartDispatcher, command: RunCommand, db: Db, own_valkey: Any
) -> None:
    server = own_valkey()
    async with Redis.from_url(server.url) as redis, dispatcher(redis_url=server.url) as running:
        await redis.config_set("maxmemory", "1")
        await insert_events(db, 1)
        assert (await running.tap.next(BreakerChanged)).state == "open"
        assert (await command("pause"))[0] == 0
        await running.tap.next(PauseChanged)
        await redis.config_set("maxmemory", "0")
        assert (await running.tap.next(BreakerChanged)).state == "closed"
        assert await redis.xlen(STREAM) == 0  # found out without an entry
        assert (await command("resume"))[0] == 0
        await running.tap.add_up(Settled, sent=1)


@pytest.mark.promise("pause")
async def test_backpressure_ends_while_paused(
    dispatcher: StartDispatcher, command: RunCommand, db: Db, redis: "Redis"
) -> None:
    await redis.xgroup_create(STREAM, "slow", id="0", mkstream=True)
    async with dispatcher(stream_maxlen=1000) as running:
        await insert_events(db, 2000)
        assert (await running.tap.next(BackpressureChanged)).on
        assert (await command("pause"))[0] == 0
        await running.tap.next(PauseChanged)
        await redis.xgroup_setid(STREAM, "slow", "$")
        assert not (await running.tap.next(BackpressureChanged)).on
        assert (await command("resume"))[0] == 0


async def test_the_database_is_down_when_only_upkeep_is_connected(
    dispatcher: StartDispatcher, db: Db, database_url: str
) -> None:
    name = conninfo_to_dict(database_url)["dbname"]
    maintenance = psycopg.conninfo.make_conninfo(database_url, dbname="postgres")
    async with (
        dispatcher() as running,
        await psycopg.AsyncConnection.connect(maintenance, autocommit=True) as admin,
    ):
        assert (await running.tap.next(DatabaseChanged)).up
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name LIKE 'dispatcher lane%%'",
                [name],
            )
            assert not (await running.tap.next(DatabaseChanged)).up
        finally:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert (await running.tap.next(DatabaseChanged)).up


async def test_the_reason_is_the_one_of_now(
    dispatcher: StartDispatcher, db: Db, redis: Redis, database_url: str
) -> None:
    maintenance = make_conninfo(database_url, dbname="postgres")
    name = str(conninfo_to_dict(database_url)["dbname"])
    async with (
        dispatcher(tick_ms=50) as running,
        await psycopg.AsyncConnection.connect(maintenance, autocommit=True) as admin,
    ):

        async def says(words: str) -> None:
            await until(lambda: words in str(running.service.not_ready), words)

        await redis.config_set("min-replicas-to-write", 1)
        try:
            await insert_events(db, 1)
            await says("NOREPLICAS")
            await redis.config_set("maxmemory", 1)
            await redis.config_set("min-replicas-to-write", 0)
            await says("OOM")
        finally:
            await redis.config_set("maxmemory", 0)
            await redis.config_set("min-replicas-to-write", 0)
        await until(lambda: running.service.not_ready is None, "it is ready again")
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            await says("not currently accepting connections")
        finally:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await until(lambda: running.service.not_ready is None, "it is ready again")


async def test_a_slow_count_keeps_no_other_figure_from_being_looked_up(
    db: Db, database_url: str, redis_url: str, tap: Tap
) -> None:
    """Above a million rows the count takes seconds."""
    counted: list[object] = []
    session = await connect(PostgresTarget(database_url, "dispatcher"), "gauges")

    async def fetch(sql: str, params: Any) -> Any:
        if params and {"now", "bound"} <= params.keys():
            counted.append(params["bound"])
        return await session.fetch(sql, params)

    await insert_events(db, 3)
    async with anyio.create_task_group() as tasks:
        timing = GaugesTiming(every_s=0.01, rest=1e9)
        tasks.start_soon(lambda: gauges.run(fetch, lambda: redis_url, "gauges", (STREAM,), tap, timing=timing))
        assert [(await tap.next(Sampled)).backlog for _ in range(3)] == [3, 3, 3]
        await insert_events(db, 2, attempts=3, status="retry")
        await tap.next(Sampled, lambda seen: seen.oldest_age_s > 0)
        tasks.cancel_scope.cancel()
    assert counted[0] == gauges.BOUNDS.backlog
    assert set(counted[1:]) == {0}
    await session.close()
