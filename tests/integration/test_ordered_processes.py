"""Consumers that keep the order as processes: one joins, is stopped, killed, frozen, while events keep coming."""

import asyncio
import os
import signal
import sys

import pytest
from redis import asyncio as aio

from dispatcher.client.shard_leases import lease_of
from tests.support.consumers import GROUP, PATIENCE_S, pending, publish, read_to_the_end
from tests.support.rows import STREAM
from tests.support.waiting import until

SHARDS = 8
KEYS = [f"{STREAM}:{{{shard}}}" for shard in range(SHARDS)]
AGGREGATES = 40
AHEAD = 5  # of each aggregate, so many events wait while nobody handles them

BLOCKING = """
import os, signal, sys, redis
from dispatcher.client.consumer import Consumer, Group
url, name = sys.argv[1:]
def handle(event):
    os.write(1, f"{event.aggregate_id} {event.event_type}\\n".encode())  # one write: whole, also beside others
group = Group(stream="%s", group="%s", consumer=name, shards=8, ordered=True, claim_idle_ms=2_000, retry_ms=50)
consumer = Consumer(redis.Redis.from_url(url), group, concurrency=3)
signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
consumer.run(handle)
"""
ASYNC = """
import asyncio, os, signal, sys, redis.asyncio
from dispatcher.client.consumer import AsyncConsumer, Group
url, name = sys.argv[1:]
async def handle(event):
    os.write(1, f"{event.aggregate_id} {event.event_type}\\n".encode())
async def main():
    group = Group(stream="%s", group="%s", consumer=name, shards=8, ordered=True, claim_idle_ms=2_000, retry_ms=50)
    consumer = AsyncConsumer(redis.asyncio.Redis.from_url(url), group, concurrency=3)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
    await consumer.run(handle)
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [BLOCKING, ASYNC], ids=["blocking", "asyncio"])
async def test_through_all_that_happens_to_consumers(program: str, redis: "aio.Redis", redis_url: str) -> None:
    written = dict.fromkeys((f"a{number}" for number in range(AGGREGATES)), 0)
    handled: dict[str, dict[int, None]] = {name: {} for name in written}  # the steps of each, in the order of the first
    told = asyncio.Condition()
    done = False

    async def write() -> None:
        while True:
            async with told:
                await told.wait_for(lambda: done or wanted())
            if done:
                return
            for name in wanted():
                key = KEYS[int(name[1:]) % SHARDS]
                await publish(redis, name, key=key, event_type=str(written[name]))
                written[name] += 1

    def wanted() -> list[str]:
        return [name for name, steps in handled.items() if written[name] - len(steps) < AHEAD]

    async def follow() -> None:
        """Until the last process has closed the pipe."""
        async for line in lines:
            name, step = line.decode().split()
            async with told:
                handled[name].setdefault(int(step))
                told.notify_all()

    async def start(name: str) -> asyncio.subprocess.Process:
        arguments = ("-c", program % (STREAM, GROUP), redis_url, name)
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=write_end)
        processes.append(process)
        await until(lambda: holds(name), f"{name} reads", PATIENCE_S)
        return process

    async def holders() -> list[str]:
        found = [await redis.hget(lease_of(key, GROUP), "holder") for key in KEYS]
        return [str(holder or "").rpartition(".")[0] for holder in found]

    async def holds(name: str) -> bool:
        return name in await holders()

    async def only(*names: str) -> None:
        async def are() -> bool:
            return set(await holders()) == set(names)

        await until(are, f"{names} read all", PATIENCE_S)

    async def goes_on() -> None:
        """All aggregates get further than they are."""
        now = dict(written)
        async with asyncio.timeout(PATIENCE_S), told:
            await told.wait_for(lambda: all(len(handled[name]) > step for name, step in now.items()))

    async def all_is_done() -> bool:
        return all([await read_to_the_end(redis, key) for key in KEYS])

    processes: list[asyncio.subprocess.Process] = []
    lines, read_end, write_end = asyncio.StreamReader(), *os.pipe()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(read_end, "rb")
    )
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(write())
        group.create_task(follow())
        try:
            one, two = await start("one"), await start("two")
            await goes_on()
            three = await start("three")  # it joins
            await only("one", "two", "three")
            await goes_on()
            one.kill()
            await only("two", "three")
            await goes_on()
            await start("four")
            two.send_signal(signal.SIGSTOP)
            await only("three", "four")
            await goes_on()
            two.send_signal(signal.SIGCONT)
            await only("two", "three", "four")
            await goes_on()
            three.terminate()
            await only("two", "four")
            assert await three.wait() == 0
            await goes_on()
            async with told:
                done = True
                told.notify_all()
            await writer
            await until(all_is_done, "all is handled", PATIENCE_S)
            for process in processes:
                if process.returncode is None:
                    process.terminate()
                    assert await process.wait() == 0
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
            os.close(write_end)
    assert sum([len(await pending(redis, key)) for key in KEYS]) == 0
    assert {name: list(steps) for name, steps in handled.items()} == {
        name: list(range(count)) for name, count in written.items()
    }
