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
import inspect
import logging
import queue
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio
from redis.commands.core import ScriptCommands, StreamCommands
from redis.connection import AbstractConnection

from dispatcher.client import answers
from dispatcher.client.dedup import AsyncDedupStore, DedupStore, close_idle
from dispatcher.client.group import Group
from dispatcher.client.protocol import GroupReader
from dispatcher.client.received import Received
from dispatcher.client.steps import Call, Reconnect, RunHandler, Step, Steps, Wait
from dispatcher.infra import django_connections

__all__ = ["AsyncConsumer", "Consumer", "Group", "Received"]

log = logging.getLogger("dispatcher.client")
# redis-py's own, when the client names none: 5 since its version 8, before that None.
SOCKET_TIMEOUT_S = inspect.signature(AbstractConnection.__init__).parameters["socket_timeout"].default


class Consumer:
    """One consumer of a group; run() blocks its thread.

    `dedup`: remembers handled events, for work without a transaction of its own.
    `outages`: exceptions of your handler that mean a server is away, besides those of psycopg, psycopg2, asyncpg,
    SQLAlchemy, Django and redis-py, which are known (dispatcher.core.outages). The event then waits and is tried again,
    at no cost to its deliveries; after some seconds others are tried too, and if they are handled it is the event's own
    failure. An answer of Postgres that is about the event's own query is no outage, whatever you name.
    `on_error(event, error)` gets every other exception; the log has only its class and line, because its message may
    quote the payload. An exception of `on_error` ends run().
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
        check(client, group, dedup, on_error, asynchronous=False)
        self._client = client
        self._commands: Any = Undecoded(client)
        self._dedup = dedup
        self._reader = GroupReader(group, outages, on_error, has_store=dedup is not None)
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in a signal handler

    def run(self, handle: Callable[[Received], None]) -> None:
        """Read until stop(). Redis being away is waited out; a wrong password or a missing right is raised.

        `handle` says by an exception that it failed; what it returns must be its work done, so nothing to await.
        Raises TypeError for a coroutine function or a generator.
        """
        answers.require_handler(handle, asynchronous=False)
        with contextlib.closing(self._reader.steps()) as steps:
            step = advance(steps, None, None)
            while step is not None:
                try:
                    answer = self._do(step, handle)
                except Exception as error:
                    step = advance(steps, None, error)
                else:
                    step = advance(steps, answer, None)

    def stop(self) -> None:
        """End run() after the current event, or after at most block_ms. From any thread, or from a signal handler."""
        self._reader.stopping = True
        self._woken.put(None)

    def _do(self, step: Step, handle: Callable[[Received], None]) -> Any:
        match step:
            case Call(method, arguments, options):
                return getattr(self._commands, method)(*arguments, **options)
            case RunHandler():
                try:
                    with django_connections.usable():
                        return self._run(step, handle)
                except asyncio.CancelledError as error:  # of a loop of the handler's own; it would end run()
                    raise answers.HandlerCancelled from error
            case Reconnect():
                with contextlib.suppress(redis.RedisError, OSError):
                    close_idle(self._client)
            case Wait(seconds) if not self._reader.stopping:
                with contextlib.suppress(queue.Empty):
                    self._woken.get(timeout=seconds)
        return None

    def _run(self, step: RunHandler, handle: Callable[[Received], Any]) -> Any:
        match step:
            case RunHandler("handle", event):
                answers.check_answer(handle(event))
            case RunHandler("has", event) if self._dedup is not None:
                return answers.check_known(self._dedup.has(event.event_id))
            case RunHandler("add", event) if self._dedup is not None:
                store: Any = self._dedup
                answers.check_added(store.add(event.event_id))
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
        check(client, group, dedup, on_error, asynchronous=True)
        self._client = client
        self._commands: Any = Undecoded(client)
        self._dedup = dedup
        self._reader = GroupReader(group, outages, on_error, has_store=dedup is not None)
        self._stopped = asyncio.Event()

    async def run(self, handle: Callable[[Received], Awaitable[None]]) -> None:
        """Read until stop(). Redis being away is waited out; a wrong password or a missing right is raised.

        `handle` says by an exception that it failed. Raises TypeError for a function that is not `async def`.
        """
        answers.require_handler(handle, asynchronous=True)
        with contextlib.closing(self._reader.steps()) as steps:
            step = advance(steps, None, None)
            while step is not None:
                try:
                    answer = await self._do(step, handle)
                except Exception as error:
                    step = advance(steps, None, error)
                else:
                    step = advance(steps, answer, None)

    def stop(self) -> None:
        """End run() after the current event, or after at most block_ms. From the loop: loop.add_signal_handler(...)."""
        self._reader.stopping = True
        self._stopped.set()

    async def _do(self, step: Step, handle: Callable[[Received], Awaitable[None]]) -> Any:
        match step:
            case Call(method, arguments, options):
                return await getattr(self._commands, method)(*arguments, **options)
            case RunHandler():
                try:
                    async with django_connections.usable_async():
                        return await self._run(step, handle)
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    raise answers.HandlerCancelled from error  # it awaited something that was cancelled
            case Reconnect():
                with contextlib.suppress(redis.RedisError, OSError):
                    closing = close_idle(self._client)
                    if closing is not None:
                        await closing
            case Wait(seconds):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._stopped.wait()
        return None

    async def _run(self, step: RunHandler, handle: Callable[[Received], Any]) -> Any:
        match step:
            case RunHandler("handle", event):
                answers.check_answer(await answers.check_awaitable(handle(event)))
            case RunHandler("has", event) if self._dedup is not None:
                return answers.check_known(await self._dedup.has(event.event_id))
            case RunHandler("add", event) if self._dedup is not None:
                await self._dedup.add(event.event_id)
        return None


class Undecoded(StreamCommands, ScriptCommands):
    """The commands of a client, whose replies stay bytes: one entry that is no text must not fail the whole read."""

    _event_dispatcher: Any = None  # redis-py's base asks for it, and does not use it for commands

    def __init__(self, client: Any) -> None:
        self._client = client

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        return self._client.execute_command(*arguments, **options, NEVER_DECODE=True)


def advance(steps: Steps, answer: Any, error: Exception | None) -> Step | None:
    """Send the answer, or throw the error, into the steps; returns the next step, None at the end."""
    try:
        return steps.send(answer) if error is None else steps.throw(error)
    except StopIteration:
        return None


def check(client: Any, group: Group, dedup: Any, on_error: Any, *, asynchronous: bool) -> None:
    """Raise TypeError or ValueError for arguments with which events would be lost, or the group stand still."""
    answers.require_client(client, asynchronous=asynchronous)
    answers.require_store(dedup, asynchronous=asynchronous)
    answers.require_listener(on_error)
    require_patience(client, group)


def require_patience(client: object, group: Group) -> None:
    """Raise ValueError when the client's socket_timeout is below block_ms: an idle stream would look like an outage."""
    settings = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    timeout_s = settings.get("socket_timeout", SOCKET_TIMEOUT_S)
    if timeout_s is None:
        log.warning("the Redis client has no socket_timeout: run() waits for ever for a server that vanishes")
    elif group.block_ms >= timeout_s * 1000:
        raise ValueError(
            f"block_ms is {group.block_ms}, but the Redis client gives up after socket_timeout={timeout_s} s: "
            "lower block_ms, or raise socket_timeout"
        )
