"""Tail and AsyncTail: every event to everyone who reads, from an id on, whatever happens to Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client.received import Received
from dispatcher.client.tail import AsyncTail, Tail
from tests.support.cluster import ChangingCluster
from tests.support.consumers import KEYS, PATIENCE_S, SHARDS, close, logged, publish
from tests.support.proxy import StartProxy
from tests.support.rows import STREAM
from tests.support.waiting import caught_up, until

pytestmark = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


class Watching:
    """A tail that is read, and what has come out of it."""

    def __init__(self, tail: Tail | AsyncTail) -> None:
        self.tail = tail
        self._came: asyncio.Queue[Received] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        here = isinstance(tail, AsyncTail)
        self.task = asyncio.create_task(self._read() if here else asyncio.to_thread(self._read_here))

    async def _read(self) -> None:
        assert isinstance(self.tail, AsyncTail)
        async for event in self.tail:
            self._came.put_nowait(event)

    def _read_here(self) -> None:
        assert isinstance(self.tail, Tail)
        for event in self.tail:
            self._loop.call_soon_threadsafe(self._came.put_nowait, event)

    async def next(self, count: int = 1) -> list[str]:
        """The next ones, by what they are about."""
        async with asyncio.timeout(PATIENCE_S):
            return [(await self._came.get()).aggregate_id for _ in range(count)]

    async def rest(self) -> list[str]:
        """What came and was not asked for."""
        await caught_up()
        return [self._came.get_nowait().aggregate_id for _ in range(self._came.qsize())]


@contextlib.asynccontextmanager
async def watching(kind: str, url: str, *, cluster: bool = False, **settings: Any) -> AsyncIterator[Watching]:
    module: Any = sync if kind == "blocking" else aio
    client = (module.RedisCluster if cluster else module.Redis).from_url(url)
    tail: Any = Tail if kind == "blocking" else AsyncTail
    watched = Watching(tail(client, STREAM, **({"block": timedelta(milliseconds=50)} | settings)))
    try:
        yield watched
    finally:
        watched.tail.stop()
        await asyncio.wait([watched.task])
        await client.aclose() if kind == "asyncio" else close(client)
    await watched.task


async def test_everyone_gets_every_event_from_where_they_say(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    first = await publish(redis, "first")
    await publish(redis, "second")
    async with (
        watching(kind, redis_url, after="0") as all_of_it,
        watching(kind, redis_url, after=first) as later,
        watching(kind, redis_url) as newest,
    ):
        assert await all_of_it.next(2) == ["first", "second"]
        assert await later.next() == ["second"]
        await until(lambda: newest.tail.position != {STREAM: "$"}, "it knows where it begins", PATIENCE_S)
        third = await publish(redis, "third")
        assert [await each.next() for each in (all_of_it, later, newest)] == [["third"]] * 3
        for each in (all_of_it, later, newest):
            each.tail.stop()
            await each.task
            assert each.tail.position == {STREAM: third}
    assert await redis.xinfo_groups(STREAM) == []


async def test_nothing_is_missed_between_two_runs(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    async with watching(kind, redis_url, after="0") as before:
        await publish(redis, "first")
        assert await before.next() == ["first"]
    await publish(redis, "meanwhile")
    async with watching(kind, redis_url, after=before.tail.position) as after:
        assert await after.next() == ["meanwhile"]


async def test_a_second_loop_passes_over_nothing(kind: str, where: tuple[str, str, Any]) -> None:
    """The first read all of them with the event at which it was left: that one was perhaps not dealt with."""
    url, pool, client = where
    module: Any = sync if kind == "blocking" else aio
    of_kind = (module.RedisCluster if pool == "cluster" else module.Redis).from_url(url)
    tail: Any = (Tail if kind == "blocking" else AsyncTail)(of_kind, STREAM, shards=SHARDS, after="0")

    def read_here(last: str) -> list[str]:
        came = list[str]()
        for event in tail:
            came.append(event.aggregate_id)
            if event.aggregate_id == last:
                break
        return came

    async def read(last: str) -> list[str]:
        came = list[str]()
        async for event in tail:
            came.append(event.aggregate_id)
            if event.aggregate_id == last:
                break
        return came

    async def up_to(last: str) -> list[str]:
        async with asyncio.timeout(PATIENCE_S):
            return await (read(last) if kind == "asyncio" else asyncio.to_thread(read_here, last))

    try:
        for name in ("first", "second", "third"):
            await publish(client, name, key=KEYS[0])
        assert await up_to("second") == ["first", "second"]
        await publish(client, "fourth", key=KEYS[0])
        assert await up_to("fourth") == ["second", "third", "fourth"]
    finally:
        tail.stop()
        await of_kind.aclose() if kind == "asyncio" else close(of_kind)


async def test_an_outage_of_redis_is_waited_out(
    kind: str, redis: "aio.Redis", redis_url: str, proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    through = await proxy(redis_url)
    async with watching(kind, through.via(redis_url), after="0") as watched:
        await publish(redis, "first")
        assert await watched.next() == ["first"]
        await through.stop()
        await logged(caplog, "trying again")
        await publish(redis, "second")
        await through.start()
        assert await watched.next() == ["second"]
        assert await watched.rest() == []


async def test_who_missed_entries_is_told(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    missed: list[str] = []
    seen = await publish(redis, "seen")
    await publish(redis, "trimmed")
    await publish(redis, "kept")
    async with watching(kind, redis_url, after=seen, on_missed=missed.append) as watched:
        assert await watched.next(2) == ["trimmed", "kept"]
    assert missed == []
    await redis.xtrim(STREAM, maxlen=1, approximate=False)
    async with watching(kind, redis_url, after=seen, on_missed=missed.append) as watched:
        assert await watched.next() == ["kept"]
    assert missed == [STREAM]


async def test_what_comes_below_what_was_read_is_not_passed_over(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis loses data while its clock goes back: its new entries have lower ids than those that it lost."""

    async def put(name: str, milliseconds: int, where: Any = redis) -> None:
        await publish(where, name, entry_id=f"{milliseconds}-0")

    missed: list[str] = []
    async with watching(kind, redis_url, after="0", on_missed=missed.append) as watched:
        for name, moment in (("a", 100), ("b", 200), ("c", 300), ("d", 400)):
            await put(name, moment)
            assert await watched.next() == [name]
        async with redis.pipeline(transaction=True) as at_once:
            at_once.delete(STREAM)
            for name, moment in (("a", 100), ("b", 200), ("new", 250)):
                await put(name, moment, at_once)
            await at_once.execute()
        assert await watched.next() == ["new"]
        async with redis.pipeline(transaction=True) as at_once:
            at_once.delete(STREAM)
            await put("newer", 50, at_once)
            await at_once.execute()
        assert await watched.next() == ["newer"]
        assert await watched.rest() == []
    assert missed == [STREAM, STREAM]
    assert f"Redis lost entries of {STREAM} up to 400-0: it is read on after 200-0" in caplog.text


async def test_who_begins_at_the_oldest_entry_or_between_two_missed_nothing(
    kind: str, redis: "aio.Redis", redis_url: str
) -> None:
    missed: list[str] = []
    _, between, _ = [await publish(redis, name) for name in ("first", "second", "third")]
    await redis.xdel(STREAM, between)
    for after, expected in (("0", ["first", "third"]), (between, ["third"])):
        async with watching(kind, redis_url, after=after, on_missed=missed.append) as watched:
            assert await watched.next(len(expected)) == expected
    assert missed == []


async def test_what_is_no_event_is_passed_over(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.xadd(STREAM, {"event_id": "secret"})
    await publish(redis, "good")
    async with watching(kind, redis_url, after="0") as watched:
        assert await watched.next() == ["good"]
    assert "passed over: the entry has no field message_id" in caplog.text or "cannot be read" in caplog.text
    assert "secret" not in caplog.text


async def test_all_shards_on_one_server(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    keys = [f"{STREAM}:{{{shard}}}" for shard in range(4)]
    async with watching(kind, redis_url, after="0", shards=4) as watched:
        for key in keys:
            await publish(redis, key, key=key)
        assert sorted(await watched.next(4)) == keys
    assert set(watched.tail.position) == set(keys)


async def test_all_shards_in_a_cluster(kind: str, client_cluster: ChangingCluster) -> None:
    keys = [f"{STREAM}:{{{shard}}}" for shard in range(4)]
    url = client_cluster.nodes[0].url
    async with aio.RedisCluster.from_url(url, decode_responses=True) as client:
        await client.flushall(target_nodes=aio.RedisCluster.PRIMARIES)
        async with watching(kind, url, cluster=True, after="0", shards=4) as watched:
            for key in keys * 3:
                await publish(client, key, key=key)
            assert sorted(await watched.next(12)) == sorted(keys * 3)
        await publish(client, "meanwhile", key=keys[2])
        async with watching(kind, url, cluster=True, after=watched.tail.position, shards=4) as later:
            assert await later.next() == ["meanwhile"]
            assert await later.rest() == []


async def test_a_wrong_password_is_an_error(kind: str, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names it: an error of a task that nobody awaits is not seen."""
    url = redis_url.replace("redis://", "redis://nobody:wrong@")
    with pytest.raises(sync.AuthenticationError):
        async with watching(kind, url) as watched:
            await asyncio.wait([watched.task], timeout=PATIENCE_S)
    assert f"the tail of {STREAM} has ended: AuthenticationError" in caplog.text
    assert "wrong" not in caplog.text


async def test_what_cannot_be_is_refused(kind: str, redis_url: str) -> None:
    module: Any = sync if kind == "blocking" else aio
    tail: Any = Tail if kind == "blocking" else AsyncTail
    client = module.Redis.from_url(redis_url)
    with pytest.raises(ValueError, match="after must have an id for each key of the stream"):
        tail(client, STREAM, after={"other": "0"})
    with pytest.raises(ValueError, match="count must be 1 or more"):
        tail(client, STREAM, count=0)
    with pytest.raises(ValueError, match="shards is 3"):
        tail(client, STREAM, shards=3)
    with pytest.raises(TypeError, match="the client is a"):
        tail((aio if kind == "blocking" else sync).Redis.from_url(redis_url), STREAM)
