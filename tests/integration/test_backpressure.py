"""MAXLEN trims nothing that a consumer group has not read: the relay waits for the slowest one."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.core.events import BackpressureChanged, Claimed, Settled
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.info import read_stream_info
from dispatcher.upkeep.backpressure import Backpressure
from tests.support.rows import STREAM, insert_events, statuses
from tests.support.tap import Tap
from tests.support.waiting import until

MAXLEN = 1000


async def read_all(redis: Any, db: Any, rows: int, group: str, *others: str) -> set[str]:
    """Read as a consumer of the group until every row was read or nothing comes any more."""
    read: set[str] = set()

    async def look() -> bool:
        for other in others:
            await redis.xreadgroup(other, "me", {STREAM: ">"}, count=1000)
        found = await redis.xreadgroup(group, "me", {STREAM: ">"}, count=500)
        for _, entries in found:
            read.update(fields["event_id"] for _, fields in entries)
        return not found and await statuses(db) == {"sent": rows}

    await until(look, "every row is sent and the group has nothing more to read", 300.0)
    return read


@pytest.mark.promise("trimming")
@pytest.mark.parametrize("batch_size", [1, 256, 10_000])
async def test_a_stalled_group_loses_nothing(dispatcher, redis, db, batch_size):
    await redis.config_set("stream-node-max-entries", 1)  # trims to the entry, the worst that can be
    await redis.xgroup_create(STREAM, "slow", id="0", mkstream=True)
    await redis.xgroup_create(STREAM, "quick", id="0")
    rows = 1500 if batch_size == 1 else 5000
    await insert_events(db, rows)
    try:
        async with dispatcher(stream_maxlen=MAXLEN, batch_size=batch_size) as running:
            held = await running.tap.next(BackpressureChanged)
            assert (held.on, held.group) == (True, "slow")
            assert 900 <= held.unread <= MAXLEN
            assert await redis.xlen(STREAM) <= MAXLEN
            assert len(await read_all(redis, db, rows, "slow", "quick")) == rows
            assert not (await running.tap.next(BackpressureChanged)).on
    finally:
        await redis.config_set("stream-node-max-entries", 100)


@pytest.mark.promise("trimming")
async def test_two_dispatchers_share_the_last_tenth(dispatcher, redis, db):
    await redis.config_set("stream-node-max-entries", 1)
    await redis.xgroup_create(STREAM, "slow", id="0", mkstream=True)
    await insert_events(db, 5000)
    options = {"stream_maxlen": MAXLEN, "batch_size": 256}
    try:
        async with dispatcher(**options) as one, dispatcher(**options) as two:
            await one.tap.next(BackpressureChanged)
            await two.tap.next(BackpressureChanged)
            assert len(await read_all(redis, db, 5000, "slow")) == 5000
    finally:
        await redis.config_set("stream-node-max-entries", 100)


async def test_without_a_group_nothing_is_held(dispatcher, redis, db):
    await insert_events(db, 3000)
    async with dispatcher(stream_maxlen=MAXLEN) as running:
        await running.tap.add_up(Settled, sent=3000)
        assert running.tap.all(BackpressureChanged) == []


async def test_a_held_relay_stops_at_once(dispatcher, redis, db):
    await redis.xgroup_create(STREAM, "slow", id="0", mkstream=True)
    await insert_events(db, 2000)
    async with dispatcher(stream_maxlen=MAXLEN) as running:
        await running.tap.next(BackpressureChanged)
    assert set(await statuses(db)) == {"sent", "pending"}


async def test_a_large_maxlen_does_not_cut_batches(dispatcher, redis, db):
    await redis.xgroup_create(STREAM, "slow", id="0", mkstream=True)
    await insert_events(db, 2560)
    async with dispatcher(batch_size=256) as running:
        await running.tap.add_up(Settled, sent=2560)
        assert max(event.rows for event in running.tap.all(Claimed)) == 256


@pytest.fixture
async def redis_connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    redis_connection = RedisConnection(
        RedisTarget.parse(redis_url), name="test", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda _: None
    )
    await redis_connection.connect()
    yield redis_connection
    redis_connection.close()


@pytest.mark.promise("trimming")
@pytest.mark.parametrize("place", ["$", 300, 19_700, 10_000], ids=str)
async def test_a_group_whose_lag_redis_cannot_tell_is_counted(redis_connection, redis, tap: Tap, place):
    """Made at `$` or at an id in the middle of a stream that was trimmed: nothing is held back but for a slow one."""
    async with redis.pipeline(transaction=False) as adding:
        for n in range(30_000):
            adding.xadd(STREAM, {"n": n}, maxlen=20_000, approximate=False)
        ids = (await adding.execute())[10_000:]
    await redis.xgroup_create(STREAM, "search", id=place if place == "$" else ids[-place - 1])
    pressure = Backpressure(redis_connection, streams=(STREAM,), maxlen=20_000, deadline_s=30.0, observe=tap)
    real = 0 if place == "$" else place
    for _ in range(54):
        await redis.xadd(STREAM, {"n": 1})
    held = real + 54 >= 18_000
    assert (await pressure.allowance() == 0) == held
    assert tap.all(BackpressureChanged) == ([BackpressureChanged(True, "search", real + 54)] if held else [])
    await redis.xreadgroup("search", "me", {STREAM: ">"}, count=real + 54 - 10)
    await redis.xdel(STREAM, ids[-1])
    pressure._ask_at = 0.0
    assert await pressure.allowance() > 0
    [group] = (await read_stream_info(redis, STREAM)).groups
    assert group.lag == 10


async def test_after_an_xdel_it_is_counted(redis_connection, redis, tap: Tap):
    ids = [await redis.xadd(STREAM, {"n": n}) for n in range(1000)]
    await redis.xgroup_create(STREAM, "group", id="0")
    await redis.xreadgroup("group", "me", {STREAM: ">"}, count=950)
    await redis.xdel(STREAM, ids[500], ids[980])
    assert [group.get("lag") for group in await redis.xinfo_groups(STREAM)] == [
        None
    ]  # Redis before 7 has no such field
    pressure = Backpressure(redis_connection, streams=(STREAM,), maxlen=1000, deadline_s=30.0, observe=tap)
    assert await pressure.allowance() > 0
    assert tap.all(BackpressureChanged) == []
    assert [group.lag for group in (await read_stream_info(redis, STREAM)).groups] == [49]


async def test_what_was_counted_once_is_remembered(redis_connection, redis, tap: Tap):
    """A slow group in the middle: each look reads only what the group has read since the last one."""
    ids = [await redis.xadd(STREAM, {"n": n}) for n in range(1000)]
    await redis.xgroup_create(STREAM, "middle", id=ids[50])
    pressure = Backpressure(redis_connection, streams=(STREAM,), maxlen=1000, deadline_s=30.0, observe=tap)
    assert await pressure.allowance() == 0
    assert tap.seen == [BackpressureChanged(True, "middle", 949)]
    await redis.config_resetstat()
    for _ in range(10):
        assert await pressure.allowance() == 0
    read = (await redis.info("commandstats")).get("cmdstat_xrange", {"calls": 0})["calls"]
    assert read <= 2
    await redis.xreadgroup("middle", "me", {STREAM: ">"}, count=1000)
    assert await pressure.allowance() > 0
    assert tap.seen[1:] == [BackpressureChanged(False, "middle", 0)]


async def test_between_two_limits_it_stays_as_it_is(redis_connection, redis, tap: Tap):
    await redis.xgroup_create(STREAM, "slow", id="0", mkstream=True)
    now = 0.0
    pressure = Backpressure(
        redis_connection, streams=(STREAM,), maxlen=100, deadline_s=30.0, observe=tap, clock=lambda: now
    )
    pressure._dispatchers = 1

    async def add(entries: int) -> None:
        for _ in range(entries):
            await redis.xadd(STREAM, {"a": "b"})

    await add(85)
    assert await pressure.allowance() == 5
    pressure.use_up(4)
    await add(5)
    assert await pressure.allowance() == 1  # its share is not used up, and the last look was just now
    now = 1.0
    assert await pressure.allowance() == 0
    await redis.xreadgroup("slow", "me", {STREAM: ">"}, count=5)
    assert await pressure.allowance() == 0
    await redis.xreadgroup("slow", "me", {STREAM: ">"}, count=10)
    assert await pressure.allowance() == 5
    assert [event.on for event in tap.all(BackpressureChanged)] == [True, False]
