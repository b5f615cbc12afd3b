"""Consumers that keep the order as processes: one joins, is stopped, killed, frozen, while events keep coming."""

import asyncio
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from redis import asyncio as aio

from dispatcher.client.leases import lease_of
from tests.support.consumers import GROUP, PATIENCE_S, pending, publish
from tests.support.rows import STREAM
from tests.support.waiting import until

SHARDS = 8
KEYS = [f"{STREAM}:{{{shard}}}" for shard in range(SHARDS)]
AGGREGATES = 40

BLOCKING = """
import os, signal, sys, redis
from dispatcher.client.consumer import Consumer, Group
url, name, path = sys.argv[1:]
log = os.open(path, os.O_WRONLY | os.O_APPEND)
def handle(event):
    os.write(log, f"{name} {event.aggregate_id} {event.event_type}\\n".encode())  # one write: appended as a whole
group = Group(stream="%s", group="%s", consumer=name, shards=8, ordered=True, claim_idle_ms=2_000, retry_ms=50)
consumer = Consumer(redis.Redis.from_url(url), group, concurrency=3)
signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
consumer.run(handle)
"""
ASYNC = """
import asyncio, os, signal, sys, redis.asyncio
from dispatcher.client.consumer import AsyncConsumer, Group
url, name, path = sys.argv[1:]
log = os.open(path, os.O_WRONLY | os.O_APPEND)
async def handle(event):
    os.write(log, f"{name} {event.aggregate_id} {event.event_type}\\n".encode())
async def main():
    group = Group(stream="%s", group="%s", consumer=name, shards=8, ordered=True, claim_idle_ms=2_000, retry_ms=50)
    consumer = AsyncConsumer(redis.asyncio.Redis.from_url(url), group, concurrency=3)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
    await consumer.run(handle)
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [BLOCKING, ASYNC], ids=["blocking", "asyncio"])
async def test_through_all_that_happens_to_consumers(
    program: str, redis: "aio.Redis", redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "handled"
    path.touch()
    steps: dict[str, int] = defaultdict(int)
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            for number in range(AGGREGATES):
                await publish(redis, f"a{number}", key=KEYS[number % SHARDS], event_type=str(steps[f"a{number}"]))
                steps[f"a{number}"] += 1
            await asyncio.sleep(0.2)

    async def start(name: str) -> asyncio.subprocess.Process:
        arguments = ("-c", program % (STREAM, GROUP), redis_url, name, str(path))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
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
        now = dict(steps)
        await until(lambda: all(seen.get(name, 0) > step for name, step in now.items()), "all go on", PATIENCE_S)

    seen: dict[str, int] = {}

    async def follow() -> None:
        with path.open() as file:
            while not done.is_set():
                for line in file:
                    _, name, step = line.split()
                    seen[name] = max(seen.get(name, 0), int(step))
                await asyncio.sleep(0.02)

    processes: list[asyncio.subprocess.Process] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(follow())
        try:
            processes += [await start("one"), await start("two")]
            await goes_on()
            processes.append(await start("three"))  # it joins
            await only("one", "two", "three")
            await goes_on()
            os.kill(processes[0].pid, signal.SIGKILL)
            await only("two", "three")
            await goes_on()
            processes.append(await start("four"))
            os.kill(processes[1].pid, signal.SIGSTOP)
            await only("three", "four")
            await goes_on()
            os.kill(processes[1].pid, signal.SIGCONT)
            await only("two", "three", "four")
            await goes_on()
            processes[2].terminate()
            await only("two", "four")
            assert await processes[2].wait() == 0
            await goes_on()
        finally:
            done.set()

    async def all_is_done() -> bool:
        groups = [group for key in KEYS for group in await redis.xinfo_groups(key)]
        return all(group["lag"] == 0 and group["pending"] == 0 for group in groups)

    await until(all_is_done, "all is handled", PATIENCE_S)
    for process in processes:
        if process.returncode is None:
            process.terminate()
            assert await process.wait() == 0
    assert sum([len(await pending(redis, key)) for key in KEYS]) == 0
    first: dict[str, list[int]] = defaultdict(list)
    for line in path.read_text().splitlines():
        _, name, step = line.split()
        if int(step) not in first[name]:
            first[name].append(int(step))
    assert first == {name: list(range(count)) for name, count in steps.items()}
