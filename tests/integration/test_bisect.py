"""Rows on which the connection to Redis is cut are isolated, down to the one that does it; outages are not."""

import re
from random import Random
from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.events import BreakerChanged, Buried, ClosedConnection, Published
from dispatcher.core.layout import Layout
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.relay.policy import ClaimPolicy, StreamPolicy
from dispatcher.relay.stream.bisect import IsolatedBatch, PoisonBisector
from dispatcher.relay.stream.gate import SinkGate
from tests.support.proxy import Direction, Filter, StartProxy
from tests.support.rows import STREAM, insert_events, one_row, read_stream, read_table, statuses
from tests.support.running import PATIENT, StartDispatcher
from tests.support.tap import Tap
from tests.support.waiting import until

Db = psycopg.AsyncConnection[Any]
PATIENT_S = 60.0
FAST = {"tick_ms": 50, "max_attempts": 2, "backoff_base_ms": 10, "backoff_max_ms": 20}
LARGE = '{"x": "' + "y" * 5000 + '"}'


def cutting(pattern: bytes) -> Any:
    """Makes filters that reset a connection which sends that."""
    found = re.compile(pattern)

    def make() -> Filter:
        def pass_on(direction: Direction, data: bytes) -> bytes:
            if direction == "to_server" and found.search(data):
                raise ConnectionAbortedError
            return data

        return pass_on

    return make


@pytest.mark.promise("bad-entry")
async def test_several_guilty_rows_in_a_batch(
    dispatcher: StartDispatcher, db: Db, redis: "Redis", redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    through.make_filter = cutting(rb"\$50\d\d\r\n")
    guilty = []
    for many in (3, 97, 100, 60):
        await insert_events(db, many)
        guilty += await insert_events(db, payload=LARGE)
    async with dispatcher(redis_url=through.via(redis_url), **FAST) as running:
        for _ in guilty:
            await running.tap.next(Buried, timeout=PATIENT_S)
        table = await read_table(db)
        assert {row["id"]: row["attempts"] for row in table if row["attempts"]} == dict.fromkeys(guilty, 2)
        assert await statuses(db) == {"sent": 260, "dead": 4}
        assert all("closed from there" in row["last_error"] for row in table if row["status"] == "dead")
        assert sorted(event.row for event in running.tap.all(ClosedConnection)) == sorted(guilty * 2)
    events = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(events) == len(set(events)) == 260


@pytest.mark.promise("bad-entry")
async def test_a_row_that_was_guilty_before_cuts_off_nobody_else(
    dispatcher: StartDispatcher, db: Db, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    through.make_filter = cutting(rb"\$50\d\d\r\n")
    await insert_events(db, payload=LARGE, attempts=1)
    async with dispatcher(redis_url=through.via(redis_url), **FAST | PATIENT | {"max_attempts": 5}) as running:
        for _ in range(3):
            await running.tap.next(ClosedConnection, timeout=PATIENT_S)
            await insert_events(db)
            await running.tap.next(Published, timeout=PATIENT_S)
        await running.tap.next(Buried, timeout=PATIENT_S)
        assert running.tap.all(BreakerChanged) == []


@pytest.mark.promise("redis-outage")
@pytest.mark.parametrize("attempts", [0, 1])
async def test_a_sink_that_cuts_off_everybody_costs_nothing(
    dispatcher: StartDispatcher, db: Db, redis: "Redis", redis_url: str, proxy: StartProxy, attempts: int
) -> None:
    """It answers everything but XADD: no row can be guilty of that."""
    through = await proxy(redis_url)
    through.make_filter = cutting(rb"XADD")
    await insert_events(db, 5, attempts=attempts)
    async with dispatcher(redis_url=through.via(redis_url), **FAST) as running:
        if not attempts:
            for _ in range(3):  # each a batch that was cut off
                await running.tap.next(BreakerChanged, lambda event: event.state == "open", PATIENT_S)
        else:
            await insert_events(db)
            await running.tap.next(BreakerChanged, lambda event: event.state == "open", PATIENT_S)
        assert {row["attempts"] for row in await read_table(db) if row["payload"] == {"n": 5}} == {attempts}
        through.make_filter = None
        through.cut()
        await running.tap.add_up(Published, PATIENT_S, entries=5 + bool(attempts))
    assert {row["attempts"] for row in await read_table(db)} <= {0, attempts}
    assert set(await statuses(db)) == {"sent"}
    events = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(events) == len(set(events))


@pytest.mark.promise("redis-outage")
async def test_rows_that_failed_before_keep_their_lease_while_redis_is_away(
    dispatcher: StartDispatcher, db: Db, redis_url: str, proxy: StartProxy
) -> None:
    """They wait for the batch that they were claimed with: without a lease, another dispatcher would fence us."""
    through = await proxy(redis_url)

    def once() -> Filter:
        def pass_on(direction: Direction, data: bytes) -> bytes:
            if direction == "to_server" and b"XADD" in data:
                through.refuse()
                raise ConnectionAbortedError
            return data

        return pass_on

    through.make_filter = once
    [fresh] = await insert_events(db)
    [failed] = await insert_events(db, attempts=1)
    async with dispatcher(redis_url=through.via(redis_url), **FAST | {"lease_ms": 2000}) as running:
        await running.tap.next(BreakerChanged, lambda event: event.state == "open", PATIENT_S)
        claimed = {row["id"]: row["picked_at"] for row in await read_table(db)}
        renewed = "SELECT FROM messaging.message_outbox WHERE id = %s AND picked_at > %s"
        await until(lambda: one_row(db, renewed, fresh, claimed[fresh]), "its lease is renewed")
        assert await one_row(db, renewed, failed, claimed[failed])
        through.make_filter = None
        await through.restore()
        await running.tap.add_up(Published, PATIENT_S, entries=2)


async def test_rows_that_come_while_leases_are_renewed(db: Db, database_url: str, redis_url: str, tap: Tap) -> None:
    claims = ClaimPolicy(canary_slots=256, lease_s=0.0, max_payload_bytes=1)
    anything: Any = None  # no part of what is tested
    stopping, rng = anyio.Event(), Random(1)
    policy = StreamPolicy(claims, anything, anything, 60.0)
    connection = RedisConnection(
        RedisTarget.parse(redis_url), name="test", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
    )
    gate = SinkGate(connection, Breaker(Backoff(0.01, 0.02), rng), layout=Layout(STREAM), timeout_s=60.0, observe=tap)
    bisector = PoisonBisector(
        policy,
        gate=gate,
        publisher=connection,
        answers=anything,
        stopping=stopping,
        pause=anything,
        observe=tap,
        rng=rng,
    )
    lane = ReconnectingSession(PostgresTarget(database_url, "test"), "lane", rng=rng)
    first, second = (Batch(str(uuid4()), [], "0-0", 0.0) for _ in range(2))
    renewed = anyio.Event()

    async def renew() -> None:
        assert await bisector._still_ours(IsolatedBatch(lane, first), []) == []
        renewed.set()

    async with anyio.create_task_group() as tasks:
        await tasks.start(lane.keep)
        await bisector.add(lane, first)
        async with db.transaction():
            await db.execute("LOCK messaging.message_outbox")
            tasks.start_soon(renew)
            await anyio.wait_all_tasks_blocked()  # its first renewal waits for the lock
            await bisector.add(lane, second)
        await renewed.wait()
        tasks.cancel_scope.cancel()
