"""Functions under @consumer.on, their limits, what Retry, Wait and Dead say, and a consumer beside other work."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client.consumer import AsyncConsumer, Consumer, Received
from dispatcher.handlers import Dead, Retry, Wait
from tests.support.consumers import (
    DEAD,
    GROUP,
    PATIENCE_S,
    consuming,
    dead,
    group,
    publish,
    read_to_the_end,
    until_nothing_is_pending,
)
from tests.support.rows import STREAM
from tests.support.waiting import becomes, until

both_kinds = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


@both_kinds
async def test_the_first_pattern_that_fits_handles_an_event(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    got: list[tuple[str, str]] = []
    module: Any = sync if kind == "blocking" else aio
    client = module.Redis.from_url(redis_url)
    consumer: Any = (Consumer if kind == "blocking" else AsyncConsumer)(client, group(block=timedelta(milliseconds=50)))

    def note(name: str) -> Any:
        def here(event: Received) -> None:
            got.append((name, event.event_type))

        async def there(event: Received) -> None:
            here(event)

        return here if kind == "blocking" else there

    consumer.on("order.created")(note("created"))
    consumer.on("order.*", "invoice.*")(note("others"))
    await publish(redis, "order.created", event_type="order.created")
    for event_type in ("order.paid", "invoice.sent", "user.gone"):
        await publish(redis, event_type, event_type=event_type)
    if kind == "blocking":
        with consumer:
            await until(lambda: len(got) >= 3, "all are handled", PATIENCE_S)
            await until_nothing_is_pending(redis)
    else:
        async with consumer:
            await until(lambda: len(got) >= 3, "all are handled", PATIENCE_S)
            await until_nothing_is_pending(redis)
    await client.aclose() if kind == "asyncio" else client.close()
    assert set(got) == {("created", "order.created"), ("others", "order.paid"), ("others", "invoice.sent")}
    assert await read_to_the_end(redis, STREAM), "what nobody handles is acknowledged"


@both_kinds
async def test_a_type_that_no_function_handles_is_logged_once(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`@consumer.on("order.create")`: every order.created was acknowledged, and no line said so."""

    def here(event: Received) -> None: ...

    async def there(event: Received) -> None: ...

    function: Any = here if kind == "blocking" else there
    for meant in (False, True):
        module: Any = sync if kind == "blocking" else aio
        client = module.Redis.from_url(redis_url)
        consumer: Any = (Consumer if kind == "blocking" else AsyncConsumer)(client, group(group=f"meant-{meant}"))
        consumer.on("order.create", "invoice.*")(function)
        if meant:
            consumer.on("*")(function)
        for number, event_type in enumerate(("order.created", "order.created", "user.gone")):
            await publish(redis, str(number), event_type=event_type)
        await redis.xgroup_create(STREAM, f"meant-{meant}", id="0")
        async with contextlib.AsyncExitStack() as stack:
            if kind == "blocking":
                stack.enter_context(consumer)
            else:
                await stack.enter_async_context(consumer)
            await becomes(lambda: read_to_the_end(redis, STREAM), True, "it is read to its end", PATIENCE_S)
        await client.aclose() if kind == "asyncio" else client.close()
        await redis.xgroup_destroy(STREAM, f"meant-{meant}")
    said = [line for line in caplog.messages if "not handled" in line]
    assert said == [
        "events of the type order.created are acknowledged and not handled: on() of the group meant-False names "
        "order.create, invoice.*; is order.create misspelt?",
        "events of the type user.gone are acknowledged and not handled: on() of the group meant-False names "
        "order.create, invoice.*",
    ]


@both_kinds
async def test_what_a_function_has_not_named_goes_to_that_of_run(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    special: list[str] = []

    async def there(event: Received) -> None:
        special.append(event.event_type)

    def here(event: Received) -> None:
        special.append(event.event_type)

    async with consuming(kind, redis_url, group()) as running:
        running.consumer.on("special")(here if kind == "blocking" else there)
        await publish(redis, "1", event_type="special")
        await publish(redis, "2", event_type="other")
        assert (await running.next()).event_type == "other"
        await until_nothing_is_pending(redis)
    assert special == ["special"]


@both_kinds
async def test_a_wait_costs_no_delivery_and_a_retry_does(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    calls = 0

    def behave(event: Received) -> None:
        nonlocal calls
        calls += 1
        if calls <= 4:
            raise Wait(0.1, "too early")
        if calls <= 6:
            raise Retry("once more", after=0.01)

    await publish(redis, "7")
    async with consuming(kind, redis_url, group(max_deliveries=3, retry=timedelta(minutes=10)), behave) as running:
        came = [(await running.next()).deliveries for _ in range(7)]
        await until_nothing_is_pending(redis)
    assert came == [1, 1, 1, 1, 1, 2, 3]
    assert not await redis.exists(DEAD)


@both_kinds
async def test_what_can_never_succeed_is_put_away_at_once(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    def behave(event: Received) -> None:
        raise Dead("no address")

    await publish(redis, "7")
    async with consuming(kind, redis_url, group(), behave):
        [entry] = await dead(redis)
        await until_nothing_is_pending(redis)
    assert (entry["dead_reason"], entry["dead_deliveries"]) == ("Dead: no address", "1")


@both_kinds
@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("no file caf\udce9", "Dead: no file caf?"),
        ("x" * 2_000_000, "Dead: " + "x" * 494),
        ("two\nlines", "Dead: two lines"),
    ],
)
async def test_any_reason_can_be_put_away(
    kind: str, redis: "aio.Redis", redis_url: str, reason: str, kept: str
) -> None:
    """A file's name may hold bytes that are no text. The consumer would end with each delivery of this event."""

    def behave(event: Received) -> None:
        raise Dead(reason)

    await publish(redis, "7")
    async with consuming(kind, redis_url, group(), behave):
        [entry] = await dead(redis)
        await until_nothing_is_pending(redis)
    assert entry["dead_reason"] == kept


@both_kinds
async def test_a_function_has_attempts_of_its_own(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    def here(event: Received) -> None:
        raise LookupError

    async def there(event: Received) -> None:
        raise LookupError

    async with consuming(kind, redis_url, group(max_deliveries=10)) as running:
        running.consumer.on("once", attempts=1)(here if kind == "blocking" else there)
        await publish(redis, "7", event_type="once")
        [entry] = await dead(redis)
    assert (entry["event_type"], entry["dead_deliveries"]) == ("once", "1")


async def test_a_function_that_takes_too_long_is_cancelled(
    redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def slow(event: Received) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event.aggregate_id)

    async with consuming("asyncio", redis_url, group()) as running:
        assert isinstance(running.consumer, AsyncConsumer)
        running.consumer.on("slow", timeout=timedelta(milliseconds=20), attempts=2)(slow)
        await publish(redis, "7", event_type="slow")
        await publish(redis, "8", event_type="quick")
        assert (await running.next()).event_type == "quick"
        [entry] = await dead(redis)
    assert ended == ["7", "7"]
    assert entry["dead_reason"] == "FunctionTooSlow: it did not end within 0.02 s"


async def test_hooks_run_before_the_first_event_and_after_the_last(redis: "aio.Redis", redis_url: str) -> None:
    said: list[str] = []
    await publish(redis, "7")
    async with aio.Redis.from_url(redis_url) as client:
        consumer = AsyncConsumer(client, group(block=timedelta(milliseconds=50)))
        consumer.on_start(lambda: said.append("start"))
        consumer.on_stop(lambda: said.append("last"))

        @consumer.on_stop
        async def stopped() -> None:
            said.append("first")

        @consumer.on("*")
        async def handle(event: Received) -> None:
            said.append(event.aggregate_id)
            consumer.stop()

        await consumer.run()
    assert said == ["start", "7", "first", "last"]
    here = sync.Redis.from_url(redis_url)
    blocking = Consumer(here, group(block=timedelta(milliseconds=50)))
    blocking.on_start(lambda: said.append("start"))
    blocking.on_stop(lambda: said.append("stop"))
    blocking.on_start(blocking.stop)
    await asyncio.to_thread(blocking.run, lambda event: None)
    here.close()
    assert said[4:] == ["start", "stop"]


@both_kinds
async def test_a_consumer_that_ends_beside_other_work_says_so(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "dispatcher.client")
    await redis.set(STREAM, "no stream")
    module: Any = sync if kind == "blocking" else aio
    client = module.Redis.from_url(redis_url)
    consumer: Any = (Consumer if kind == "blocking" else AsyncConsumer)(client, group())

    came = list[Received]()

    async def there(event: Received) -> None:
        came.append(event)

    consumer.on("*")(came.append if kind == "blocking" else there)

    async def beside(condition: Callable[[], object]) -> None:
        if kind == "blocking":
            with consumer:
                await until(condition, "what is awaited beside it", PATIENCE_S)
        else:
            async with consumer:
                await until(condition, "what is awaited beside it", PATIENCE_S)

    with pytest.raises(sync.ResponseError, match="WRONGTYPE"):
        await beside(lambda: "the consumer has ended" in caplog.text)
    await redis.delete(STREAM)
    assert await redis.exists(STREAM, GROUP) == 0
    await publish(redis, "later")
    await beside(lambda: came)  # the error was of the block before
    await client.aclose() if kind == "asyncio" else client.close()


def test_what_cannot_be_is_refused(redis_url: str) -> None:
    client = sync.Redis.from_url(redis_url)
    consumer = Consumer(client, group())
    with pytest.raises(TypeError, match="the function is missing: give one to run"):
        consumer.run()
    for wrong in ((), ("",)):
        with pytest.raises(TypeError, match=r"on\(\) needs the event types"):
            consumer.on(*wrong)(lambda event: None)
    with pytest.raises(TypeError, match=r"on\(\) needs the event types"):
        consumer.on(lambda event: None)(lambda event: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="attempts must be 1 or more"):
        consumer.on("a", attempts=0)(lambda event: None)

    async def there(event: Received) -> None: ...

    with pytest.raises(TypeError, match="is a coroutine function"):
        consumer.on("a")(there)
    turning = AsyncConsumer(aio.Redis.from_url(redis_url), group())
    with pytest.raises(TypeError, match=r"timeout must be a timedelta, not int: timeout=timedelta\(seconds=5\)"):
        turning.on("a", timeout=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must be more than nothing"):
        turning.on("a", timeout=timedelta(0))(there)
    client.close()
