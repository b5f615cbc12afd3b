"""dispatcher.client.consumer: a server that is away costs no event anything, and no event takes the others along."""

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from time import monotonic
from typing import Any

import psycopg
import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client import patience
from dispatcher.client.consumer import AsyncConsumer, Received
from dispatcher.client.dedup import AsyncRedisDedupStore, RedisDedupStore
from dispatcher.client.tail import AsyncTail
from tests.support.consumers import (
    DEAD,
    GROUP,
    PATIENCE_S,
    Away,
    consuming,
    dead,
    group,
    logged,
    publish,
    until_nothing_is_pending,
)
from tests.support.proxy import StartProxy
from tests.support.redis import StartValkey
from tests.support.rows import STREAM
from tests.support.waiting import becomes, until

both_kinds = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


@pytest.mark.promise("consumer")
@both_kinds
@pytest.mark.parametrize("pool", ["pool", "blocking pool", "single connection"])
async def test_an_old_primary_that_lives_on_as_a_replica_is_left(
    kind: str, pool: str, own_valkey: StartValkey, proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind one address another server is primary now; the old one keeps its connections."""
    caplog.set_level(logging.WARNING, "dispatcher.client")
    old, new = own_valkey(), own_valkey()
    way = await proxy(old.url)
    async with (
        aio.Redis.from_url(old.url, decode_responses=True) as of_old,
        aio.Redis.from_url(new.url, decode_responses=True) as of_new,
        consuming(kind, way.via(old.url), group(), dedup=True, pool=pool) as running,
    ):
        await publish(of_old, "before")
        assert (await running.next()).aggregate_id == "before"
        way.upstream = ("127.0.0.1", new.port)
        await of_old.replicaof("127.0.0.1", new.port)
        await logged(caplog, "trying again")
        await publish(of_new, "after")
        assert (await running.next()).aggregate_id == "after"
        await until_nothing_is_pending(of_new)


async def answers(redis: "aio.Redis") -> bool:
    with contextlib.suppress(sync.ResponseError):
        return bool(await redis.ping())
    return False


@both_kinds
async def test_somebodys_script_is_waited_out(
    kind: str, own_valkey: StartValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says that it reads, that Redis does not answer, and that it answers again."""
    caplog.set_level(logging.INFO, "dispatcher.client")
    server = own_valkey(options={"lua-time-limit": "1"})
    async with (
        aio.Redis.from_url(server.url, decode_responses=True) as redis,
        consuming(kind, server.url, group()) as running,
    ):
        await publish(redis, "before")
        assert (await running.next()).aggregate_id == "before"
        with sync.Redis.from_url(server.url, socket_timeout=60) as script:
            connection = script.connection_pool.get_connection()
            connection.send_command("EVAL", "while true do end", 0)
            await logged(caplog, "BUSY")
            assert caplog.messages[0].startswith(f"reads {STREAM} in the group {GROUP} as ")
            assert "answers again" not in caplog.text
            await redis.script_kill()
            await until(lambda: answers(redis), "the script has ended", PATIENCE_S)
            connection.disconnect()
        await publish(redis, "after")
        assert (await running.next()).aggregate_id == "after"
        await logged(caplog, f"Redis answers again: it reads {STREAM} on")
    assert caplog.text.count("in the group") == 1


@pytest.mark.promise("consumer")
@both_kinds
async def test_an_event_whose_own_query_takes_too_long_is_its_own_failure(
    kind: str, redis: "aio.Redis", redis_url: str, empty_database_url: str
) -> None:
    """QueryCanceled is an OperationalError, as a lost connection is."""

    def behave(event: Received) -> None:
        bad = event.aggregate_id == "bad"
        with psycopg.connect(empty_database_url, options="-c statement_timeout=20" if bad else None) as connection:
            connection.execute("SELECT pg_sleep(60)" if bad else "SELECT 1")

    for name in ("bad", "good"):
        await publish(redis, name)
    named = (psycopg.OperationalError,)
    async with consuming(kind, redis_url, group(max_deliveries=2), behave, outages=named) as running:
        came = [(await running.next()).aggregate_id for _ in range(3)]
        [entry] = await dead(redis)
        await until_nothing_is_pending(redis)
    assert sorted(came) == ["bad", "bad", "good"]
    assert entry["dead_reason"].startswith("QueryCanceled")


@pytest.mark.promise("consumer")
@both_kinds
async def test_an_outage_that_only_one_event_sees_is_its_own(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    def behave(event: Received) -> None:
        if event.aggregate_id == "bad":
            raise Away

    for name in ("bad", "bad", "good", "good", "good"):
        await publish(redis, name)
    async with consuming(kind, redis_url, group(max_deliveries=2), behave) as running:
        came = Counter[str]()
        while came["good"] < 3:
            came[(await running.next()).aggregate_id] += 1
        assert not await redis.exists(DEAD)
        await publish(redis, "good")
        await until(lambda: redis.xlen(DEAD), "the first was put away")
        await publish(redis, "good")
        await becomes(lambda: redis.xlen(DEAD), 2, "both were put away", PATIENCE_S)
        await until_nothing_is_pending(redis)


@pytest.mark.promise("consumer")
@both_kinds
async def test_a_real_outage_costs_no_event_a_delivery_however_long(
    kind: str, redis: "aio.Redis", redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SECONDS_IN_PLACE", 600.0)  # the tries of a slow machine take long
    away = True

    def behave(event: Received) -> None:
        if away:
            raise ConnectionRefusedError

    for name in ("first", "second", "third"):
        await publish(redis, name)
    async with consuming(kind, redis_url, group(max_deliveries=1), behave) as running:
        tried = Counter[str]()
        while len(tried) < 3:  # the first waits in its place, then the others are tried
            event = await running.next()
            tried[event.aggregate_id] += 1
            assert event.deliveries == 1
        assert tried["first"] >= 5
        away = False
        await until_nothing_is_pending(redis)
    assert not await redis.exists(DEAD)


@pytest.mark.promise("consumer")
@both_kinds
@pytest.mark.parametrize("ordered", [False, True])
async def test_work_is_not_done_twice_because_its_store_was_away_behind_it(
    kind: str,
    ordered: bool,
    redis: "aio.Redis",
    redis_url: str,
    own_valkey: StartValkey,
    proxy: StartProxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "pause_s", lambda failures: 0.01)
    server = own_valkey()
    way = await proxy(server.url)
    client: Any = (sync if kind == "blocking" else aio).Redis.from_url(way.via(server.url))
    store: Any = (RedisDedupStore if kind == "blocking" else AsyncRedisDedupStore)(client, GROUP)
    working = threading.Event()
    settings = group(ordered=ordered)

    def behave(event: Received) -> None:
        assert working.wait(PATIENCE_S)

    async def behave_async(event: Received) -> None:
        await asyncio.to_thread(behave, event)

    async with consuming(kind, redis_url, settings, behave, store=store) as running:
        if kind == "asyncio":
            running.behave_async(behave_async)
        await publish(redis, "first")
        event = await running.next()
        await way.stop()
        working.set()
        tries = patience.TRIES_IN_PLACE + 1  # it was let go, and came again
        await until(lambda: caplog.text.count("trying again") >= tries, "others were let by", PATIENCE_S)
        await way.start()
        await until_nothing_is_pending(redis)
        assert await running.rest() == []
        assert await (store.has(event.event_id) if kind == "asyncio" else asyncio.to_thread(store.has, event.event_id))
    await client.aclose() if kind == "asyncio" else client.close()


@pytest.mark.promise("consumer")
@both_kinds
@pytest.mark.parametrize("decode", [True, False])
async def test_what_cannot_be_decoded_is_put_away(kind: str, decode: bool, redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "before")
    async with aio.Redis.from_url(redis_url) as raw:
        await raw.xadd(STREAM, {b"event_id": b"\xff\xfe", b"payload": b"\xff"})
        await raw.xadd(STREAM, {b"\xff": b"a foreign producer's"})
        await publish(redis, "after")
        async with consuming(kind, redis_url, group(), decode_responses=decode) as running:
            assert [(await running.next()).aggregate_id for _ in range(2)] == ["before", "after"]
            await until_nothing_is_pending(redis)
        entries: Any = await raw.xrange(DEAD)
    assert [fields[b"dead_reason"] for _, fields in entries] == [b"the entry is not text"] * 2
    assert entries[0][1][b"payload"] == b"\xff"


@pytest.mark.promise("consumer")
@both_kinds
async def test_a_group_that_was_lost_begins_at_the_oldest_entry(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    """start="$" is for the first start: what came before the group was made again is not to be skipped."""
    await publish(redis, "before the first start")
    async with consuming(kind, redis_url, group(start="$", block=timedelta(milliseconds=50))) as running:
        await until(lambda: redis.xinfo_groups(STREAM), "the group is there")
        await publish(redis, "first")
        assert (await running.next()).aggregate_id == "first"
        async with redis.pipeline() as together:  # before the consumer sees it
            together.delete(STREAM)
            await publish(together, "after the loss")
            await together.execute()
        assert (await running.next()).aggregate_id == "after the loss"
        await redis.xgroup_destroy(STREAM, GROUP)
        assert (await running.next()).aggregate_id == "after the loss"


@pytest.mark.promise("consumer")
@both_kinds
async def test_a_few_that_are_slow_to_fail_do_not_starve_new_ones(
    kind: str, redis: "aio.Redis", redis_url: str
) -> None:
    """Each try of a bad one leads to the next bad one's: new ones get as much time as they took."""
    blocked = threading.Event()
    slow_s = 0.05  # longer than the pause after it: another is always due
    tries: list[tuple[str, float, float]] = []

    def behave(event: Received) -> None:
        began = monotonic()
        if event.aggregate_id == "bad":
            blocked.wait(slow_s)
        tries.append((event.aggregate_id, began, monotonic()))
        if event.aggregate_id == "bad":
            raise LookupError

    for _ in range(4):
        await publish(redis, "bad")
    patient = group(max_deliveries=1_000, retry=timedelta(milliseconds=1))
    async with consuming(kind, redis_url, patient, behave) as running:
        for _ in range(6):
            await running.next()
        slow_s = 1.0
        for _ in range(2):  # the second has begun since
            await running.next()
        async with redis.pipeline() as together:
            for number in range(20):
                await publish(together, f"good {number}")
            await together.execute()
        published = monotonic()
        await until(lambda: any(name == "good 19" for name, *_ in tries), "all came", PATIENCE_S)
        blocked.set()
    names = [name for name, *_ in tries]
    assert [name for name in names if name != "bad"] == [f"good {number}" for number in range(20)]
    beside = [(began, ended) for name, began, ended in tries[: names.index("good 19")] if name == "bad"]
    for (began, ended), (next_began, _) in pairwise(each for each in beside if each[0] > published):
        assert next_began - ended >= ended - began


async def test_a_handler_whose_own_task_is_cancelled_fails(redis: "aio.Redis", redis_url: str) -> None:
    async def handle(event: Received) -> None:
        if event.aggregate_id == "bad":
            inner = asyncio.create_task(asyncio.sleep(60))
            inner.cancel()
            await inner
        handled.set()

    handled = asyncio.Event()
    for name in ("bad", "good"):
        await publish(redis, name)
    async with aio.Redis.from_url(redis_url) as client:
        consumer = AsyncConsumer(client, group(max_deliveries=1))
        running = asyncio.create_task(consumer.run(handle))
        async with asyncio.timeout(PATIENCE_S):
            await handled.wait()
        [entry] = await dead(redis)
        assert entry["dead_reason"].startswith("FunctionCancelled")
        running.cancel()  # and this cancels run()
        with pytest.raises(asyncio.CancelledError):
            await running


class DropsACancellation(aio.Redis):
    """Its caller is cancelled as the entries come, and redis-py drops the cancellation."""

    read = "XREADGROUP"
    running: "asyncio.Task[None] | None" = None

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        answer = await super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]
        if arguments[0] == self.read and answer and self.running is not None:
            self.running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return answer


@pytest.mark.parametrize("reads", ["a group", "all"])
async def test_a_cancellation_that_redis_py_drops_ends_it(reads: str, redis: "aio.Redis", redis_url: str) -> None:
    async def handle(event: Received) -> None:
        pass

    async def read_all(tail: AsyncTail) -> None:
        async for _ in tail:
            pass

    await publish(redis, "entry")
    client: Any = DropsACancellation.from_url(redis_url)
    async with client:
        if reads == "a group":
            client.running = asyncio.create_task(AsyncConsumer(client, group()).run(handle))
        else:
            client.read = "XREAD"
            client.running = asyncio.create_task(read_all(AsyncTail(client, stream=STREAM, after="0")))
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(asyncio.CancelledError):
                await client.running


async def test_names_of_killed_consumers_go_unless_something_is_pending(redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "unfinished")
    await redis.xgroup_create(STREAM, GROUP, id="0")
    for number in range(30):
        await redis.xgroup_createconsumer(STREAM, GROUP, f"killed-{number}")
    await redis.xreadgroup(GROUP, "killed-7", {STREAM: ">"})
    async with consuming("asyncio", redis_url, group(claim_idle=timedelta(seconds=1))) as running:
        assert (await running.next()).aggregate_id == "unfinished"  # only then its consumer's name may go

        async def names() -> int:
            return len(await redis.xinfo_consumers(STREAM, GROUP))

        await becomes(names, 1, "only the living one's name is left", PATIENCE_S)
        await running.stop()
    assert await redis.xinfo_consumers(STREAM, GROUP) == []


@both_kinds
async def test_two_consumers_of_one_name_lose_nothing_at_a_stop(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    """The first that stops would delete the name, and with it what the other has in hand."""

    def behave(event: Received) -> None:
        with sync.Redis.from_url(redis_url) as other:
            other.xadd(STREAM, {"held by": "the other"})
            other.xreadgroup(GROUP, "same", {STREAM: ">"})
        running.consumer.stop()

    async with consuming(kind, redis_url, group(consumer="same"), behave) as running:
        await publish(redis, "one")
        async with asyncio.timeout(PATIENCE_S):
            await running.task
    [entry] = await redis.xpending_range(STREAM, GROUP, "-", "+", 10)
    assert entry["consumer"] == "same"
