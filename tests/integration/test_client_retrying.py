"""dispatcher.client with a client that retries by itself, as redis.Redis(host=...) does: no command of a reader."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from dispatcher.client.commands import commands_for
from dispatcher.client.consumer import AsyncConsumer, Consumer
from dispatcher.client.scripts import READ
from dispatcher.client.tail import AsyncTail, Tail
from tests.support.consumers import (
    PATIENCE_S,
    Running,
    both_kinds,
    close,
    group,
    logged,
    publish,
    until_it_waits,
    until_nothing_is_pending,
)
from tests.support.proxy import Direction, Filter, Proxy, StartProxy
from tests.support.rows import STREAM
from tests.support.waiting import becomes

NAME = "reader"
both_pools = pytest.mark.parametrize("pool", ["pool", "blocking pool"])


@asynccontextmanager
async def retrying(kind: str, way: Proxy, pool: str, **settings: Any) -> AsyncIterator[Any]:
    """A client that retries; with no other `settings` as redis-py does by itself."""
    settings |= {"host": "127.0.0.1", "port": way.port, "client_name": NAME}
    async with AsyncExitStack() as stack:
        made: Any
        if kind == "blocking":
            made = await asyncio.to_thread(sync.Redis, single_connection_client=pool == "single connection", **settings)
            if pool == "blocking pool":
                blocking: Any = sync.BlockingConnectionPool
                made = sync.Redis.from_pool(blocking(**settings | {"retry": made.get_retry()}))
            stack.callback(close, made)
        else:
            made = aio.Redis(single_connection_client=pool == "single connection", **settings)
            if pool == "blocking pool":
                made = aio.Redis.from_pool(aio.BlockingConnectionPool(**settings | {"retry": made.get_retry()}))
            stack.push_async_callback(made.aclose)
        yield made


@asynccontextmanager
async def reading(kind: str, client: Any, **settings: Any) -> AsyncIterator[Running]:
    """A consumer with this client, until the end of the block."""
    running = Running(
        (Consumer if kind == "blocking" else AsyncConsumer)(client, group(**settings)), lambda event: None
    )
    try:
        yield running
    finally:
        await running.stop()


def losing_replies(left: list[tuple[bytes, bytes]]) -> Callable[[], Filter]:
    """For `make_filter` before Redis: the reply to this part of a command with this in it is lost once, with its
    connection; that pair then leaves the list."""

    def make() -> Filter:
        last = b""

        def filtered(direction: Direction, data: bytes) -> bytes:
            nonlocal last
            if direction == "to_server":
                last = data
                return data
            for command, reply in left:
                if command in last and reply in data:
                    left.remove((command, reply))
                    raise ConnectionAbortedError
            return data

        return filtered

    return make


@pytest.mark.promise("consumer")
@both_kinds
@both_pools
async def test_a_read_whose_reply_was_lost_is_not_sent_again(
    kind: str, pool: str, redis: "aio.Redis", redis_url: str, proxy: StartProxy
) -> None:
    """What that reply held would be passed over, and what comes after it be handled before."""
    ids = [await publish(redis, "one") for _ in range(6)]
    way = await proxy(redis_url)
    read = hashlib.sha1(READ.encode(), usedforsecurity=False).hexdigest().encode()
    left = [(read, b"aggregate_id"), (b"ECHO", b"mine")]
    way.make_filter = losing_replies(left)
    async with retrying(kind, way, pool) as client:
        async with reading(kind, client, ordered=True, count=2) as running:
            for entry_id in ids:
                assert (await running.next()).entry_id == entry_id
            await until_nothing_is_pending(redis)
        assert len(left) == 1, "no reply of a read was lost"

        async def connections() -> int:
            return sum(each["name"] == NAME for each in await redis.client_list())

        await becomes(connections, 0, "the connections of the reader that are open", PATIENCE_S)
        echoed = await asyncio.to_thread(client.echo, "mine") if kind == "blocking" else await client.echo("mine")
        assert echoed == b"mine"
        assert not left  # its reply was lost too: the client retries for others as before


@both_kinds
@pytest.mark.parametrize("pool", ["pool", "blocking pool", "single connection"])
async def test_in_an_outage_a_consumer_says_so_and_obeys_a_stop(
    kind: str, pool: str, redis: "aio.Redis", redis_url: str, proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dispatcher.client")
    way = await proxy(redis_url)
    retry = (Retry if kind == "blocking" else AsyncRetry)(ConstantBackoff(1.5 * PATIENCE_S), 10)
    async with retrying(kind, way, pool, retry=retry) as client, reading(kind, client) as running:
        await publish(redis, "one")
        await running.next()
        way.refuse()
        way.cut()
        await logged(caplog, "trying again")


@both_kinds
async def test_in_an_outage_a_tail_says_so_and_obeys_a_stop(
    kind: str, redis: "aio.Redis", redis_url: str, proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dispatcher.client")
    way = await proxy(redis_url)
    retry = (Retry if kind == "blocking" else AsyncRetry)(ConstantBackoff(1.5 * PATIENCE_S), 10)
    await publish(redis, "one")
    async with retrying(kind, way, "pool", retry=retry) as client:
        came = asyncio.Event()
        loop = asyncio.get_running_loop()
        tail: Any = (Tail if kind == "blocking" else AsyncTail)(client, STREAM, after="0")

        def read() -> None:
            for _ in tail:
                loop.call_soon_threadsafe(came.set)

        async def read_async() -> None:
            async for _ in tail:
                came.set()

        task = asyncio.create_task(asyncio.to_thread(read) if kind == "blocking" else read_async())
        async with asyncio.timeout(PATIENCE_S):
            await came.wait()
        way.refuse()
        way.cut()
        await logged(caplog, "trying again")
        tail.stop()
        async with asyncio.timeout(PATIENCE_S):
            await task


@both_kinds
async def test_in_a_cluster_a_command_that_went_to_the_wrong_node_first_is_not_sent_again(
    kind: str, client_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client follows to the right node by its own way, which sends a command again when its reply does not come."""
    url, key = client_cluster.nodes[0].url, "one"
    client: Any
    async with AsyncExitStack() as stack:
        if kind == "blocking":
            client = await asyncio.to_thread(sync.RedisCluster.from_url, url)
            stack.callback(close, client)
        else:
            client = aio.RedisCluster.from_url(url)
            stack.push_async_callback(client.aclose)
            await client.initialize()
        right = client.get_node_from_key(key)
        wrong = next(each for each in client.get_primaries() if each.name != right.name)
        monkeypatch.setattr(client, "get_node_from_key", lambda key: wrong)
        read = partial(commands_for(client, (key,)).xread, {key: "0"}, block=PATIENCE_S * 1000)
        async with aio.Redis(host=right.host, port=right.port) as redis:
            await redis.delete(key)
            task = asyncio.create_task(asyncio.to_thread(read) if kind == "blocking" else read())
            await until_it_waits(redis)
            await redis.client_kill_filter(_type="normal", skipme=True)
            await redis.xadd(key, {"a": "b"})  # a second read answers with it
        with pytest.raises(sync.ConnectionError):
            await task
