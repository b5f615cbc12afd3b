"""Consumers of dispatcher.client at work, of both kinds, and what their group holds."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from dispatcher.client.consumer import AsyncConsumer, Consumer, Group, Received
from dispatcher.client.dedup import AsyncRedisDedupStore, RedisDedupStore
from tests.support.rows import STREAM, read_stream
from tests.support.waiting import becomes, caught_up, until

GROUP = "billing"
DEAD = f"{STREAM}:{GROUP}:dead"
PATIENCE_S = 60
Behave = Callable[[Received], object]
SHARDS = 8
KEYS = [f"{STREAM}:{{{shard}}}" for shard in range(SHARDS)]

both_kinds = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


def rights_for(version: str, line: str, text: str) -> list[str]:
    """The words of an ACL SETUSER of docs/runbook/consumers.md, as its text says to write them for a Redis of this
    version (Valkey's is 7.2.4)."""
    words = line.split()
    if version < "7.2":
        words = [each for each in words if each != "+client|setinfo"]
    if version < "7":
        instead = ("`~sanctum:messages ~sanctum:messages:billing:dead`", "`+xinfo`", "`+xadd`", "`+xrange`")
        assert all(each in text for each in instead)
        words = [each.strip("()") for each in words if "|" not in each] + ["+xinfo", "+xrange"]
    return words


async def read_to_the_end(client: Any, key: str) -> bool:
    """Whether each group has read and acknowledged all. Not by its lag, which a Redis before 7 does not tell."""
    newest = (await client.xinfo_stream(key))["last-generated-id"]
    groups = await client.xinfo_groups(key)
    return all((each["last-delivered-id"], each["pending"]) == (newest, 0) for each in groups)


def close(client: Any) -> None:
    """Close a client that blocks, with all its connections."""
    client.close()
    if isinstance(client, sync.RedisCluster):
        client.disconnect_connection_pools()  # type: ignore[no-untyped-call]  # left open, if it was made by from_url


class Away(Exception):
    """What the handler needs is away."""


def group(**settings: Any) -> Group:
    """Tries again quickly, and claims only what its idle time calls for: no test waits for a claim."""
    quick: dict[str, Any] = {
        "block": timedelta(milliseconds=50),
        "retry": timedelta(milliseconds=10),
        "claim_idle": timedelta(minutes=10),
    }
    return Group(**({"stream": STREAM, "group": GROUP} | quick | settings))


class Running:
    """A consumer at work."""

    name = ""  # in its group

    def __init__(self, consumer: Consumer | AsyncConsumer, behave: Behave) -> None:
        self.consumer = consumer
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Queue[Received] = asyncio.Queue()
        self._behave = behave
        self._behave_async: Callable[[Received], Awaitable[object]] | None = None
        if isinstance(consumer, Consumer):
            self.task = asyncio.create_task(asyncio.to_thread(consumer.run, self._handle))
        else:
            self.task = asyncio.create_task(consumer.run(self._handle_async))

    def _handle(self, event: Received) -> None:
        self._loop.call_soon_threadsafe(self._came.put_nowait, event)
        self._behave(event)

    def behave_async(self, behave: Callable[[Received], Awaitable[object]]) -> None:
        """Await this too, with a consumer on asyncio."""
        self._behave, self._behave_async = lambda event: None, behave

    async def _handle_async(self, event: Received) -> None:
        self._handle(event)
        if self._behave_async is not None:
            await self._behave_async(event)

    async def next(self) -> Received:
        """The next event the handler gets."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._came.get()

    async def rest(self) -> list[Received]:
        """What came and was not taken yet."""
        await caught_up()
        return [self._came.get_nowait() for _ in range(self._came.qsize())]

    async def stop(self) -> None:
        """And wait for the end."""
        self.consumer.stop()
        async with asyncio.timeout(PATIENCE_S):
            await self.task


@asynccontextmanager
async def consuming(
    kind: str,
    url: str,
    settings: Group,
    behave: Behave = lambda event: None,
    *,
    dedup: bool = False,
    store: Any = None,
    outages: tuple[type[Exception], ...] = (Away,),
    pool: str = "pool",
    concurrency: int = 1,
    **client: Any,
) -> AsyncIterator[Running]:
    """A consumer that runs until the end of the block."""
    async with contextlib.AsyncExitStack() as stack:
        consumer: Consumer | AsyncConsumer
        if kind == "blocking":
            if pool != "cluster":
                client["retry"] = Retry(NoBackoff(), 0)
            single = pool == "single connection"  # it connects now, perhaps through a proxy of this loop
            blocking: Any
            if pool == "cluster":
                blocking = await asyncio.to_thread(sync.RedisCluster.from_url, url, **client)
            else:
                blocking = await asyncio.to_thread(sync.Redis.from_url, url, single_connection_client=single, **client)
            if pool == "blocking pool":
                blocking = sync.Redis.from_pool(sync.BlockingConnectionPool.from_url(url, **client))
            stack.callback(close, blocking)
            store = RedisDedupStore(blocking, GROUP) if dedup else store
            consumer = Consumer(blocking, settings, dedup=store, outages=outages, concurrency=concurrency)
        else:
            turning: Any
            if pool == "cluster":
                turning = aio.RedisCluster.from_url(url, **client)
            else:
                client["retry"] = AsyncRetry(NoBackoff(), 0)
                turning = aio.Redis.from_url(url, single_connection_client=pool == "single connection", **client)
            if pool == "blocking pool":
                turning = aio.Redis.from_pool(aio.BlockingConnectionPool.from_url(url, **client))
            stack.push_async_callback(turning.aclose)
            store = AsyncRedisDedupStore(turning, GROUP) if dedup else store
            consumer = AsyncConsumer(turning, settings, dedup=store, outages=outages, concurrency=concurrency)
        running = Running(consumer, behave)
        running.name = settings.consumer
        try:
            yield running
        finally:
            consumer.stop()
            await asyncio.wait([running.task])
        if running.task.exception() is not None:
            await running.task


@pytest.fixture(params=["one server", "cluster"])
async def where(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str, Any]]:
    """Servers for a stream with shards, empty: (URL, kind of pool, a client for the test's own commands)."""
    if request.param == "one server":
        url = request.getfixturevalue("redis_url")
        async with aio.Redis.from_url(url, decode_responses=True) as client:
            yield url, "pool", client
        return
    url = request.getfixturevalue("client_cluster").nodes[0].url
    async with aio.RedisCluster.from_url(url, decode_responses=True) as client:
        await client.flushall(target_nodes=aio.RedisCluster.PRIMARIES)
        yield url, "cluster", client


async def publish(
    redis: Any,
    aggregate_id: str,
    event_id: uuid.UUID | None = None,
    key: str = STREAM,
    event_type: str = "order.created",
    payload: str = '{"total": 42}',
    entry_id: str = "*",
) -> str:
    """An entry as the dispatcher writes it; its id."""
    entry = await redis.xadd(
        key,
        {
            "event_id": str(event_id or uuid.uuid4()),
            "message_id": str(uuid.uuid4()),
            "event_type": event_type,
            "aggregate_type": "order",
            "aggregate_id": aggregate_id,
            "occurred_at": "2025-06-01T12:00:00.123456+00:00",
            "payload": payload,
        },
        id=entry_id,
    )
    return str(entry)


async def abandon(redis: Any, *, deliveries: int = 1, idle_ms: int = 3_600_000, key: str = STREAM) -> list[str]:
    """All entries, read by a consumer that died then and so often."""
    with contextlib.suppress(sync.ResponseError):
        await redis.xgroup_create(key, GROUP, id="0", mkstream=True)
    reply: Any = await redis.xreadgroup(GROUP, "died", {key: ">"})
    ids = [entry_id for _, page in reply for entry_id, _ in page]
    await redis.xclaim(key, GROUP, "died", 0, ids, idle=idle_ms, retrycount=deliveries, justid=True)
    return ids


async def pending(redis: Any, key: str = STREAM) -> list[dict[str, Any]]:
    """What was delivered and not acknowledged."""
    return list(await redis.xpending_range(key, GROUP, "-", "+", 100))


async def until_nothing_is_pending(redis: "aio.Redis") -> None:
    await becomes(lambda: pending(redis), [], "what is pending", PATIENCE_S)


async def nothing_is_pending(client: Any) -> None:
    async def of(key: str) -> object:
        try:
            return await pending(client, key)
        except sync.ResponseError as error:  # the reader of a shard without entries may come last
            return str(error)

    for key in KEYS:
        await becomes(partial(of, key), [], f"what is pending in {key}", PATIENCE_S)


async def until_it_waits(redis: "aio.Redis") -> None:
    async def blocked() -> int:
        return int((await redis.info("clients"))["blocked_clients"])  # Redis tells nobody when a client blocks

    await until(blocked, "the consumer waits for entries", PATIENCE_S)


async def logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    await until(lambda: words in caplog.text, f"the log has {words!r}", PATIENCE_S)


async def dead(redis: "aio.Redis") -> list[dict[str, str]]:
    """What was put away, once there is any."""
    for _ in range(PATIENCE_S):
        if await redis.xread({DEAD: "0"}, block=1000):
            break
    return await read_stream(redis, DEAD)
