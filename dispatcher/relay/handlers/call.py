"""Calls the handler of one row, and makes an outcome of what it does. Nothing it raises gets any further than that.

A sync handler runs in a thread, an async one on the loop; each has its timeout. A handler that ignores its timeout
cannot be ended: a thread by nobody, a task that swallows its cancellation neither. Its row is settled as a failed
attempt, and the handler is stuck for as long as it goes on; its place is free.
"""

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, NamedTuple

from dispatcher.core.decide import RetryPolicy, brief
from dispatcher.core.events import HandledAs
from dispatcher.core.frames import place_of, text_of
from dispatcher.core.outcome import Done, FailedAttempt, FailedForGood, Outcome, Waits
from dispatcher.core.parse import CannotParse, parse
from dispatcher.core.redact import redact
from dispatcher.core.row import ClaimedRow
from dispatcher.handlers import exceptions as raised
from dispatcher.handlers.event import event_of
from dispatcher.handlers.load import LoadedHandler
from dispatcher.handlers.outages import Outages, meets
from dispatcher.infra import django_connections
from dispatcher.infra.traces import Message, parent_in, processing
from dispatcher.relay.handlers.threads import CallResult, Threads

CANCEL_S = 1.0  # what a cancelled task gets to clean up

OUTAGE_S = 1.0  # an event's wait, unless TypeLimits.outage says otherwise


class HandlerResult(NamedTuple):
    """What became of a row, in the settle's words and in the metric's. `place`: file and line that raised.

    "outage": `failed` is what becomes of it if the outage turns out to be its own failure.
    """

    outcome: Outcome
    handled: HandledAs
    place: str | None = None
    failed: Outcome | None = None


@dataclass(slots=True)
class HandlerExecutor:
    """What runs handlers. `stuck_tasks`: that go on though they were cancelled; `types`: the event type of each
    stuck call. Both are written by call_handler().
    """

    threads: Threads
    stuck_tasks: set["asyncio.Future[CallResult]"]
    types: dict["asyncio.Future[CallResult]", str] = field(default_factory=dict)

    @property
    def stuck(self) -> int:
        """Handlers that go on after their timeout."""
        return self.threads.stuck + len(self.stuck_tasks)


async def call_handler(
    handler: LoadedHandler,
    row: ClaimedRow,
    executor: HandlerExecutor,
    *,
    timeout_s: float,
    retry: RetryPolicy,
    rng: Random,
) -> HandlerResult:
    """Run the handler. Cancelled: the handler too, and a thread is left to itself."""
    timeout_s = handler.limits.timeout_s or timeout_s
    retry = handler.retry(retry)
    call = _traced(_call(handler, row), row, on_the_loop=handler.on_the_loop)
    deadline = asyncio.get_running_loop().time() + timeout_s
    future = _on_the_loop(call) if handler.on_the_loop else executor.threads.call(partial(_in_a_thread, call))
    ran = await _within(future, deadline, executor, row.event_type)
    while ran is not None and inspect.isawaitable(ran.result):  # a coroutine that nobody has awaited: no answer yet
        ran = await _within(_on_the_loop(partial(_same, ran.result)), deadline, executor, row.event_type)
    if ran is None:
        error = f"TimeoutError: the handler did not end within {timeout_s:g} s"
        return HandlerResult(_failed(row, error, None, retry, rng), "timeout")
    wrong = ran.raised or _no_answer(ran.result)
    return HandlerResult(Done(), "done") if wrong is None else _judge(row, wrong, handler.outages, retry, rng)


def _same(promised: Awaitable[Any]) -> Awaitable[Any]:
    return promised


def _no_answer(result: object) -> BaseException | None:
    """What is wrong with a result that says that the work is not done. Any other result is ignored."""
    if isinstance(result, BaseException):  # returned, where it was meant to be raised
        return result
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return TypeError("the handler returned a generator, of which nothing has run: it must not yield")
    if isinstance(result, concurrent.futures.Future):
        return TypeError("the handler returned a future of work that may go on: return its result()")
    return None


def _call(handler: LoadedHandler, row: ClaimedRow) -> Callable[[], Any]:
    def call() -> Any:
        payload = parse(row.payload, "the payload")
        return handler.function(payload, event_of(row)) if handler.takes_event else handler.function(payload)

    return call


def _traced(call: Callable[[], Any], row: ClaimedRow, *, on_the_loop: bool) -> Callable[[], Any]:
    """The call in a span of its own, if its producer's was sampled."""
    if (parent := parent_in(row.headers)) is None:
        return call
    message = Message("outbox", "messaging.message_outbox", row.event_id, row.event_type)

    def in_a_span() -> Any:
        with processing(parent, message, no_error=raised.Wait):
            return call()

    async def awaited_in_a_span() -> Any:
        with processing(parent, message, no_error=raised.Wait):
            return await call()

    return awaited_in_a_span if on_the_loop else in_a_span


def _in_a_thread(call: Callable[[], Any]) -> Any:
    with django_connections.usable():
        return call()


def _on_the_loop(call: Callable[[], Awaitable[Any]]) -> "asyncio.Future[CallResult]":
    async def run() -> CallResult:
        try:
            async with django_connections.usable_async():
                return CallResult(await call())
        except BaseException as error:  # SystemExit, or a group with one, would end the loop
            return CallResult(raised=error)

    return asyncio.get_running_loop().create_task(run(), name="handler")


async def _within(
    future: "asyncio.Future[CallResult]", deadline: float, executor: HandlerExecutor, event_type: str
) -> CallResult | None:
    """The call's end, or None when it is not over in time; it is abandoned then."""
    try:
        await asyncio.wait([future], timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if future.done():
            return CallResult(raised=asyncio.CancelledError()) if future.cancelled() else future.result()
        if isinstance(future, asyncio.Task):
            future.cancel()
            await asyncio.wait([future], timeout=CANCEL_S)
        return None
    finally:
        if not future.done():
            executor.types[future] = event_type
            future.add_done_callback(lambda ended: executor.types.pop(ended, None))
            if isinstance(future, asyncio.Task):
                future.cancel()
                executor.stuck_tasks.add(future)
                future.add_done_callback(executor.stuck_tasks.discard)
            else:
                executor.threads.abandon(future)


def _judge(row: ClaimedRow, error: BaseException, outages: Outages, retry: RetryPolicy, rng: Random) -> HandlerResult:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # of a task group: what the handler's task raised
    text, place = described(error, row), place_of(error) or None
    match error:
        case raised.Dead() | CannotParse():  # the next attempt could not parse it either
            return HandlerResult(FailedForGood(text, place), "dead")
        case raised.Wait(after_s=after_s):
            return HandlerResult(Waits(after_s, text), "wait", place)
        case raised.Retry(after_s=after_s):
            return HandlerResult(_failed(row, text, after_s, retry, rng, place), "retry", place)
    failed = _failed(row, text, None, retry, rng, place)
    try:
        away = meets(outages, error)
    except Exception as wrong:  # the application's own function
        failed = _failed(row, brief(f"{text}; outages raised {type(wrong).__name__}"), None, retry, rng, place)
        away = False
    if away:
        return HandlerResult(Waits(OUTAGE_S, text), "outage", place, failed)
    return HandlerResult(failed, "retry", place)


def _failed(
    row: ClaimedRow, error: str, after_s: float | None, retry: RetryPolicy, rng: Random, place: str | None = None
) -> Outcome:
    if row.attempts + 1 >= retry.max_attempts:
        return FailedForGood(error, place)
    delay_s = retry.backoff.reconnect_delay(row.attempts + 1, rng) if after_s is None else after_s
    return FailedAttempt(delay_s, error, place)


def described(error: BaseException, row: ClaimedRow) -> str:
    """Class and message of what a handler raised, fit for `last_error`: without what the row holds."""
    if isinstance(error, CannotParse):
        # Ours: it quotes nothing, and there is nothing to compare with.
        return brief(f"{type(error).__name__}: {error}")
    message = text_of(error)
    name = type(error).__name__
    return brief(f"{name}: {redact(message, row.payload, row.headers)}" if message else name)
