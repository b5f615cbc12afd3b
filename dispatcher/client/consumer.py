"""Reads a consumer group of the stream and calls your handler for each event, at least once.

An event is acknowledged after the handler returned. If the handler raises, the event is delivered again after a pause,
to this consumer or another, and goes to `dead_stream` after `max_deliveries`. An event may be delivered twice (a crash
after the work, a replay): do the work in a transaction with dispatcher.client.inbox.first_time, or give a store
(dispatcher.client.dedup).

The entries of a consumer that died are claimed by the others after `claim_idle_ms`. Events of one read are handled one
after the other; for more at a time run more consumers.
"""

import asyncio
import contextlib
import queue
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio

from dispatcher.client.dedup import AsyncDedupStore, DedupStore
from dispatcher.client.group import Group
from dispatcher.client.protocol import GroupReader
from dispatcher.client.received import Received
from dispatcher.client.steps import Call, RunHandler, Steps, Wait, of_call

__all__ = ["AsyncConsumer", "Consumer", "Group", "Received"]

SOCKET_TIMEOUT_S = 5  # redis-py's own, when the client names none


class Consumer:
    """One consumer of a group; run() blocks its thread.

    `dedup`: remembers handled events, for work without a transaction of its own.
    `outages`: exceptions of your handler that mean a server is away, such as psycopg.OperationalError. The event then
    waits and is tried again, at no cost to its deliveries. `on_error(event, error)` gets every other exception; the log
    has only its class and line, because its message may quote the payload. An exception of `on_error` ends run().
    """

    def __init__(
        self,
        client: redis.Redis,
        group: Group,
        *,
        dedup: DedupStore | None = None,
        outages: tuple[type[Exception], ...] = (),
        on_error: Callable[[Received, Exception], object] | None = None,
    ) -> None:
        require_patience(client, group)
        self._client = client
        self._dedup = dedup
        self._reader = GroupReader(group, outages, on_error, has_store=dedup is not None)
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in a signal handler

    def run(self, handle: Callable[[Received], object]) -> None:
        """Read until stop(). Redis being away is waited out; a wrong password or a missing right is raised."""
        with contextlib.closing(self._reader.steps()) as steps:
            step = advance(steps, None, None)
            while step is not None:
                try:
                    answer = self._do(step, handle)
                except Exception as error:
                    step = advance(steps, None, of_call(error) if isinstance(step, Call) else error)
                else:
                    step = advance(steps, answer, None)

    def stop(self) -> None:
        """End run() after the current event, or after at most block_ms. From any thread, or from a signal handler."""
        self._reader.stopping = True
        self._woken.put(None)

    def _do(self, step: Call | RunHandler | Wait, handle: Callable[[Received], object]) -> Any:
        match step:
            case Call(method, arguments, options):
                return getattr(self._client, method)(*arguments, **options)
            case RunHandler("handle", event):
                handle(event)
            case RunHandler("has", event) if self._dedup is not None:
                return self._dedup.has(event.event_id)
            case RunHandler("add", event) if self._dedup is not None:
                self._dedup.add(event.event_id)
            case Wait(seconds) if not self._reader.stopping:
                with contextlib.suppress(queue.Empty):
                    self._woken.get(timeout=seconds)
        return None


class AsyncConsumer:
    """The same on asyncio. stop() gives unfinished entries back; a cancelled run() leaves them for claim_idle_ms."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        group: Group,
        *,
        dedup: AsyncDedupStore | None = None,
        outages: tuple[type[Exception], ...] = (),
        on_error: Callable[[Received, Exception], object] | None = None,
    ) -> None:
        require_patience(client, group)
        self._client = client
        self._dedup = dedup
        self._reader = GroupReader(group, outages, on_error, has_store=dedup is not None)
        self._stopped = asyncio.Event()

    async def run(self, handle: Callable[[Received], Awaitable[object]]) -> None:
        """Read until stop(). Redis being away is waited out; a wrong password or a missing right is raised."""
        with contextlib.closing(self._reader.steps()) as steps:
            step = advance(steps, None, None)
            while step is not None:
                try:
                    answer = await self._do(step, handle)
                except Exception as error:
                    step = advance(steps, None, of_call(error) if isinstance(step, Call) else error)
                else:
                    step = advance(steps, answer, None)

    def stop(self) -> None:
        """End run() after the current event, or after at most block_ms. From the loop: loop.add_signal_handler(...)."""
        self._reader.stopping = True
        self._stopped.set()

    async def _do(self, step: Call | RunHandler | Wait, handle: Callable[[Received], Awaitable[object]]) -> Any:
        match step:
            case Call(method, arguments, options):
                return await getattr(self._client, method)(*arguments, **options)
            case RunHandler("handle", event):
                await handle(event)
            case RunHandler("has", event) if self._dedup is not None:
                return await self._dedup.has(event.event_id)
            case RunHandler("add", event) if self._dedup is not None:
                await self._dedup.add(event.event_id)
            case Wait(seconds):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._stopped.wait()
        return None


def advance(steps: Steps, answer: Any, error: Exception | None) -> Call | RunHandler | Wait | None:
    """Send the answer, or throw the error, into the steps; returns the next step, None at the end."""
    try:
        return steps.send(answer) if error is None else steps.throw(error)
    except StopIteration:
        return None


def require_patience(client: object, group: Group) -> None:
    """Raise ValueError when the client's socket_timeout is below block_ms: an idle stream would look like an outage."""
    settings = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    timeout_s = settings.get("socket_timeout", SOCKET_TIMEOUT_S)
    if timeout_s is not None and group.block_ms >= timeout_s * 1000:
        raise ValueError(
            f"block_ms is {group.block_ms}, but the Redis client gives up after socket_timeout={timeout_s} s: "
            "lower block_ms, or raise socket_timeout"
        )
