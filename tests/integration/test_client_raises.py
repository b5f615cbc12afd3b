"""dispatcher.client.consumer: whatever a function raises is the failure of its event, and never the end of run()."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client.consumer import AsyncConsumer, Consumer, Received
from dispatcher.handlers import Dead
from tests.support.consumers import PATIENCE_S, both_kinds, consuming, dead, group, pending, publish


class Panic(BaseException):
    """As a library in Rust raises it: pyo3_runtime.PanicException is no Exception."""


class NoText(Exception):
    def __str__(self) -> str:
        raise LookupError("it has no text")


class DeadWithoutText(Dead):
    def __str__(self) -> str:
        raise LookupError("it has no text")


class NoAttributes(Exception):
    def __getattr__(self, name: str) -> object:
        raise LookupError(name)


RAISED: dict[str, Callable[[], BaseException]] = {
    "no Exception": lambda: Panic("boom"),
    "a group with what is no Exception": lambda: BaseExceptionGroup("of a task group", [Panic(), ValueError()]),
    "no text": NoText,
    "dead without a text": DeadWithoutText,
    "no attributes": NoAttributes,
    "StopIteration": StopIteration,
}


@pytest.mark.promise("consumer")
@both_kinds
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("raised", RAISED.values(), ids=RAISED)
async def test_whatever_a_function_raises_is_the_failure_of_its_event(
    kind: str, concurrency: int, raised: Callable[[], BaseException], redis: "aio.Redis", redis_url: str
) -> None:
    def handle(event: Received) -> None:
        if event.aggregate_id == "bad":
            raise raised()

    await publish(redis, "bad")
    await publish(redis, "good")
    async with consuming(
        kind, redis_url, group(max_deliveries=1), handle, outages=(), concurrency=concurrency
    ) as running:
        assert {(await running.next()).aggregate_id for _ in range(2)} == {"bad", "good"}
        assert [entry["aggregate_id"] for entry in await dead(redis)] == ["bad"]
        await publish(redis, "later")
        assert (await running.next()).aggregate_id == "later"
    assert await pending(redis) == []


@both_kinds
async def test_outages_that_cannot_judge_an_error_cost_the_event_only(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`lambda error: error.status == 503` raises AttributeError for each error without a status."""
    caplog.set_level(logging.WARNING, "dispatcher.client")

    def handle(event: Received) -> None:
        if event.aggregate_id == "bad":
            raise ValueError("its own")

    def judge(error: Any) -> bool:
        return bool(error.status == 503)

    await publish(redis, "bad")
    await publish(redis, "good")
    settings = group(max_deliveries=1)
    async with consuming(kind, redis_url, settings, handle, outages=judge) as running:  # type: ignore[arg-type]
        assert [(await running.next()).aggregate_id for _ in range(2)] == ["bad", "good"]
        [put_away] = await dead(redis)
    assert put_away["dead_reason"].startswith("ValueError at test_client_raises.py:")
    assert "outages raised AttributeError" in caplog.text


async def away(error: BaseException) -> bool:
    return False


async def hook() -> None: ...


def generator() -> Any:
    yield


@both_kinds
async def test_what_nobody_would_await_is_refused_when_it_is_given(kind: str, redis_url: str) -> None:
    """A coroutine is true: each error would be an outage, and its event would wait for ever."""
    client: Any = sync.Redis.from_url(redis_url) if kind == "blocking" else aio.Redis.from_url(redis_url)
    of_kind: Any = Consumer if kind == "blocking" else AsyncConsumer
    with pytest.raises(TypeError, match="outages is a coroutine function"):
        of_kind(client, group(), outages=away)
    consumer = of_kind(client, group())
    for register in (consumer.on_start, consumer.on_stop):
        with pytest.raises(TypeError, match="is a generator"):
            register(generator)
        if kind == "blocking":
            with pytest.raises(TypeError, match="is a coroutine function, which nobody would await"):
                register(hook)


@both_kinds
async def test_it_runs_again_after_a_stop(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    """One consumer of a module, in two tests: the second would wait for events that nobody reads."""
    async with consuming(kind, redis_url, group()) as running:
        await publish(redis, "first")
        assert (await running.next()).aggregate_id == "first"
        await running.stop()
        consumer: Any = running.consumer
        again = consumer.run(running._handle_async) if kind == "asyncio" else None
        running.task = asyncio.create_task(again or asyncio.to_thread(consumer.run, running._handle))
        await publish(redis, "second")
        async with asyncio.timeout(PATIENCE_S):
            assert (await running.next()).aggregate_id == "second"


@both_kinds
async def test_each_function_is_called_at_the_stop_whatever_another_raises(kind: str, redis_url: str) -> None:
    """One that cannot close its pool must not keep the others from closing theirs."""
    called = list[str]()

    def broken() -> None:
        called.append("broken")
        raise LookupError("it is closed already")

    client: Any = sync.Redis.from_url(redis_url) if kind == "blocking" else aio.Redis.from_url(redis_url)
    consumer: Any = (Consumer if kind == "blocking" else AsyncConsumer)(client, group())
    consumer.on("nothing")(awaited if kind == "asyncio" else lambda event: None)
    consumer.on_start(consumer.stop)
    for hook in (lambda: called.append("first"), broken, lambda: called.append("last")):
        consumer.on_stop(hook)
    with pytest.raises(LookupError):
        await (consumer.run() if kind == "asyncio" else asyncio.to_thread(consumer.run))
    assert called == ["last", "broken", "first"]
    await client.aclose() if kind == "asyncio" else client.close()


async def awaited(event: Received) -> None: ...
