"""dispatcher.client.consumer: what is no answer is not taken for one, so that no event is acknowledged undone."""

import asyncio
import concurrent.futures
import functools
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client.consumer import AsyncConsumer, Consumer, Group, Received
from dispatcher.client.dedup import AsyncRedisDedupStore, RedisDedupStore
from dispatcher.client.function_answers import WrongAnswer
from tests.support.consumers import DEAD, PATIENCE_S, group, pending, publish
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
GROUP = Group(stream="s", group="g")


async def coroutine(event: Received) -> None: ...


async def on_error(event: Received, error: Exception) -> None: ...


def plain(event: Received) -> None: ...


def generator(event: Received) -> Generator[None]:
    yield


async def async_generator(event: Received) -> AsyncIterator[None]:
    yield


class CoroutineCallable:
    async def __call__(self, event: Received) -> None: ...


class PlainCallable:
    def __call__(self, event: Received) -> None: ...


class Store:
    """Remembers; each method answers as it is told."""

    def __init__(self, known: Any = False) -> None:
        self.known = known

    def has(self, event_id: uuid.UUID) -> Any:
        return self.known() if callable(self.known) else self.known

    def add(self, event_id: uuid.UUID) -> None: ...


class AsyncStore:
    async def has(self, event_id: uuid.UUID) -> bool:
        return False

    async def add(self, event_id: uuid.UUID) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [coroutine, functools.partial(coroutine), CoroutineCallable(), generator, async_generator, None],
    ids=["coroutine", "partial", "object", "generator", "async generator", "nothing"],
)
def test_a_consumer_refuses_what_would_not_run(handler: Any) -> None:
    with sync.Redis() as client, pytest.raises(TypeError, match="the function"):
        Consumer(client, GROUP).run(handler)


@pytest.mark.parametrize(
    "handler",
    [plain, functools.partial(plain), PlainCallable(), generator, async_generator, None],
    ids=["plain", "partial", "object", "generator", "async generator", "nothing"],
)
async def test_an_async_consumer_refuses_what_cannot_be_awaited(handler: Any) -> None:
    async with aio.Redis() as client:
        with pytest.raises(TypeError, match="the function"):
            await AsyncConsumer(client, GROUP).run(handler)


async def test_clients_stores_and_listeners_of_the_other_kind_are_refused() -> None:
    with sync.Redis() as blocking:
        async with aio.Redis() as turning:  # neither is connected
            refused: list[Callable[[], object]] = [
                lambda: Consumer(turning, GROUP),  # type: ignore[arg-type]
                lambda: AsyncConsumer(blocking, GROUP),
                lambda: Consumer(blocking.pipeline(), GROUP),
                lambda: RedisDedupStore(turning, "g"),  # type: ignore[arg-type]
                lambda: AsyncRedisDedupStore(blocking, "g"),
                lambda: Consumer(blocking, GROUP, dedup=AsyncStore()),  # type: ignore[arg-type]
                lambda: AsyncConsumer(turning, GROUP, dedup=Store()),  # type: ignore[arg-type]
                lambda: Consumer(blocking, GROUP, on_error=on_error),
                lambda: AsyncConsumer(turning, GROUP, on_error=on_error),
            ]
            for make in refused:
                with pytest.raises(TypeError):
                    make()


def wrapped() -> Any:
    """A decorator that does not tell what it wraps."""
    return lambda event: coroutine(event)


def in_a_pool(event: Received) -> Any:
    return concurrent.futures.Future()


WRONG: dict[str, Callable[[Received], Any]] = {
    "a coroutine": wrapped(),
    "a generator": lambda event: generator(event),
    "a future": in_a_pool,
}


async def failure(work: Awaitable[object]) -> BaseException:
    with pytest.raises(WrongAnswer) as failed:
        async with asyncio.timeout(PATIENCE_S):
            await work
    return failed.value


@pytest.mark.promise("consumer")
@pytest.mark.parametrize("handler", WRONG.values(), ids=WRONG)
async def test_what_is_not_done_is_not_acknowledged(
    handler: Callable[[Received], Any], redis: "aio.Redis", redis_url: str
) -> None:
    await publish(redis, "first")
    with sync.Redis.from_url(redis_url) as client:
        error = await failure(asyncio.to_thread(Consumer(client, group()).run, handler))
    assert "not acknowledged" in str(error)
    assert len(await pending(redis)) == 1


@pytest.mark.parametrize(
    "handler",
    [lambda event: None, lambda event: asyncio.sleep(0, asyncio.sleep(0)), lambda event: in_a_pool(event)],
    ids=["nothing", "a coroutine of a coroutine", "a future of a thread"],
)
async def test_what_is_not_awaited_is_not_acknowledged(handler: Any, redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "first")
    async with aio.Redis.from_url(redis_url) as client:
        error = await failure(AsyncConsumer(client, group()).run(handler))
    assert "not acknowledged" in str(error)
    assert len(await pending(redis)) == 1


@pytest.mark.parametrize("known", [None, lambda: coroutine(None), object(), "no"], ids=range(4))  # type: ignore[arg-type]
async def test_a_store_that_does_not_answer_skips_no_event(known: Any, redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "first")
    with sync.Redis.from_url(redis_url) as client:
        consumer = Consumer(client, group(), dedup=Store(known))
        error = await failure(asyncio.to_thread(consumer.run, plain))
    assert "has() answered" in str(error)
    assert len(await pending(redis)) == 1


@pytest.mark.parametrize("answer", [False, NotImplemented, LookupError("a")], ids=repr)
async def test_an_answer_that_says_no_is_a_failure(answer: Any, redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "first")

    async def handle(event: Received) -> Any:
        return answer

    with sync.Redis.from_url(redis_url) as client:
        consumer = Consumer(client, group(max_deliveries=1))
        running = asyncio.create_task(asyncio.to_thread(consumer.run, lambda event: answer))
        await until(lambda: redis.exists(DEAD), "it was put away")
        consumer.stop()
        await running
    await redis.delete(DEAD)
    await publish(redis, "second")
    async with aio.Redis.from_url(redis_url) as turning:
        other = AsyncConsumer(turning, group(max_deliveries=1))
        task = asyncio.create_task(other.run(handle))
        await until(lambda: redis.exists(DEAD), "it was put away")
        other.stop()
        await task


def test_mypy_refuses_them_too(tmp_path: Path) -> None:
    """Each line of the program that is wrong, and no other."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import redis, redis.asyncio, uuid
from dispatcher.client.consumer import AsyncConsumer, Consumer, Group, Received

class Store:
    def has(self, event_id: uuid.UUID) -> bool: return True
    def add(self, event_id: uuid.UUID) -> None: ...

class AsyncStore:
    async def has(self, event_id: uuid.UUID) -> bool: return True
    async def add(self, event_id: uuid.UUID) -> None: ...

def plain(event: Received) -> None: ...
async def coroutine(event: Received) -> None: ...

async def main(sync: redis.Redis, turning: redis.asyncio.Redis, group: Group) -> None:
    Consumer(sync, group, dedup=Store()).run(plain)
    await AsyncConsumer(turning, group, dedup=AsyncStore()).run(coroutine)
    Consumer(sync, group).run(coroutine)  # wrong
    await AsyncConsumer(turning, group).run(plain)  # wrong
    Consumer(sync, group, dedup=AsyncStore())  # wrong
    AsyncConsumer(turning, group, dedup=Store())  # wrong
"""
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(program)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    lines = program.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert {int(number) for number in re.findall(r"program.py:(\d+): error", found.stdout)} == wrong, found.stdout


async def test_a_function_that_ends_its_thread_ends_run_on_whichever_thread_it_was(
    redis: "aio.Redis", redis_url: str
) -> None:
    """A thread that ended unnoticed would be missing for good: with the last of them nothing was handled any more."""
    ran_on, exits = list[threading.Thread](), threading.Event()

    def leave(event: Received) -> None:
        if threading.current_thread() in ran_on:
            exits.wait(PATIENCE_S)
        else:
            exits.set()
            sys.exit(3)

    def run() -> object:
        ran_on.append(threading.current_thread())
        try:
            consumer.run(leave)
        except SystemExit as error:
            return error.code
        return None

    for number in range(3):
        await publish(redis, str(number))
    client = sync.Redis.from_url(redis_url)
    consumer = Consumer(client, group(), concurrency=3)
    running = asyncio.create_task(asyncio.to_thread(run))
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.shield(running) == 3
    finally:
        consumer.stop()
        await asyncio.wait([running])
        client.close()
