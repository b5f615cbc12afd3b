"""Reads a consumer group of the stream and calls your function for each event, at least once.

An event is acknowledged after the function returned. If it raises, the event is delivered again after a pause, to this
consumer or another, and goes to `dead_stream` after `max_deliveries`. An event may be delivered twice (a crash
after the work, a replay): do the work in a transaction with dispatcher.client.inbox.first_time, or give a store
(dispatcher.client.dedup).

The entries of a consumer that died are claimed by the others after `claim_idle`. Events are handled one after the
other; for more at a time give `concurrency`, or run more consumers. A stream with shards is read as one, also in a
Cluster.
"""

import dispatcher.client.needs_redis  # noqa: F401 -- before anything else imports redis

# isort: split
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import redis
import redis.asyncio

from dispatcher.client import function_answers, tasks, threads
from dispatcher.client.arguments import require_consumer
from dispatcher.client.background import InTask, OnThread
from dispatcher.client.commands import OF_A_CLUSTER, address_of, commands_for
from dispatcher.client.dedup import AsyncDedupStore, DedupStore
from dispatcher.client.entry_taker import OnError
from dispatcher.client.function_routes import FunctionRoute, FunctionRoutes, seconds_of
from dispatcher.client.group import Group
from dispatcher.client.group_reader import GroupReader
from dispatcher.client.ordered_reader import OrderedReader
from dispatcher.client.reader import Reader
from dispatcher.client.received import Received
from dispatcher.client.shard_shares import Shares
from dispatcher.client.steps import CallApplication
from dispatcher.handlers import exceptions as raised
from dispatcher.handlers.outages import Outages
from dispatcher.infra import django_connections
from dispatcher.infra.traces import NO_SPAN, Message, parent_of, processing

__all__ = ["AsyncConsumer", "Consumer", "Group", "Received"]

F = TypeVar("F", bound=Callable[..., Any])


class Consumer(OnThread):
    """One consumer of a group; run() blocks its thread, `with consumer:` runs it on another.

    `client`: a redis.Redis, or a redis.RedisCluster. Beside one that retries by itself, as redis.Redis(host=...) does,
    the consumer opens connections of its own that do not, and closes them when run() ends.
    `dedup`: remembers handled events, for work without a transaction of its own.
    `outages`: exceptions of your function that mean a server is away, or a predicate that takes an exception,
    besides those of psycopg, psycopg2, asyncpg, SQLAlchemy, Django and redis-py, which are known
    (dispatcher.core.outages). The event then waits and is tried again, at no cost to its deliveries; after some seconds
    others are tried too, and if they are handled it is the event's own failure. An answer of Postgres that is about the
    event's own query is no outage, whatever classes you name.
    `on_error(event, error)` gets every other exception; the log has only its class and line, because its message may
    quote the payload. An exception of `on_error` ends run().
    `concurrency`: how many events are handled at a time, each on a thread of its own. With 1 on the thread that called
    run(). More than 1 needs a client with a pool.
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        group: Group,
        *,
        dedup: DedupStore | None = None,
        outages: Outages = (),
        on_error: OnError | None = None,
        concurrency: int = 1,
    ) -> None:
        require_consumer(client, group, dedup, outages, on_error, concurrency, asynchronous=False)
        super().__init__()
        self._dedup = dedup
        self._concurrency = concurrency
        self._span = spans_of(group)
        self._routes = FunctionRoutes(group.group, asynchronous=False)
        readers = readers_of(client, group, outages, on_error, dedup is not None, self._routes.max_deliveries)
        self._runners = [threads.ThreadRunner(reader, commands_for(client, keys)) for keys, reader in readers.items()]
        # One reader, one event at a time: no permits to share.
        self._single = concurrency == len(readers) == 1 and not group.ordered

    def on(self, *event_types: str, attempts: int | None = None) -> Callable[[F], F]:
        """Handle events of these types with the function below. The first registered match wins.

        "order.*" matches every type that begins with "order.". An event that no name fits is acknowledged, with a
        warning for its type; under on("*"), last, a function that does nothing says that this is meant.

        `attempts`: after so many deliveries an event goes to the dead stream, in place of the group's max_deliveries.
        A thread cannot be ended, so there is no timeout here: give one to whatever the function calls.
        """

        def register(function: F) -> F:
            self._routes.add(event_types, FunctionRoute(function, attempts=attempts))
            return function

        return register

    def run(self, handle: Callable[[Received], None] | None = None) -> None:
        """Read until stop(). Redis being away is waited out; a wrong password or a missing right is raised.

        `handle` gets the events that no function under on() handles; without it they are acknowledged. It says by an
        exception that it failed. It must finish its work before it returns: a coroutine or a future that it returns is
        an error. Raises TypeError for a coroutine function or a generator.
        """
        self._routes.complete(handle)
        try:
            self._begin()
            threads.work(self._runners, self._concurrency, self._handle, single=self._single)
        finally:
            self._forget_stop()
            self._end()

    def stop(self) -> None:
        """End run() after the current event, or after at most `block`. From any thread, or from a signal handler."""
        for runner in self._runners:
            runner.stop()

    def _forget_stop(self) -> None:
        for runner in self._runners:
            runner.end()

    def _handle(self, step: CallApplication) -> Any:
        try:
            with django_connections.usable():
                return self._run(step)
        except asyncio.CancelledError as error:  # of a loop of the function's own; it would end run()
            raise function_answers.FunctionCancelled from error

    def _run(self, step: CallApplication) -> Any:
        match step:
            case CallApplication("handle", event):
                if (route := self._routes.find(event.event_type)) is not None:
                    with self._span(event):
                        function_answers.check_answer(route.function(event))
            case CallApplication("has", event) if self._dedup is not None:
                return function_answers.check_known(self._dedup.has(event.event_id))
            case CallApplication("add", event) if self._dedup is not None:
                store: Any = self._dedup  # its add() returns None by the protocol; an awaitable is refused
                function_answers.check_added(store.add(event.event_id))
        return None


class AsyncConsumer(InTask):
    """The same on asyncio; `async with consumer:` runs it in a task.

    stop() gives unfinished entries back; a cancelled run() leaves them for claim_idle.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        group: Group,
        *,
        dedup: AsyncDedupStore | None = None,
        outages: Outages = (),
        on_error: OnError | None = None,
        concurrency: int = 1,
    ) -> None:
        require_consumer(client, group, dedup, outages, on_error, concurrency, asynchronous=True)
        super().__init__()
        self._dedup = dedup
        self._concurrency = concurrency
        self._span = spans_of(group)
        self._routes = FunctionRoutes(group.group, asynchronous=True)
        readers = readers_of(client, group, outages, on_error, dedup is not None, self._routes.max_deliveries)
        self._readers = [(reader, commands_for(client, keys)) for keys, reader in readers.items()]
        # One reader, one event at a time: no permits to share.
        self._single = concurrency == len(readers) == 1 and not group.ordered
        self._stopped = asyncio.Event()

    def on(self, *event_types: str, timeout: timedelta | None = None, attempts: int | None = None) -> Callable[[F], F]:
        """Handle events of these types with the function below. The first registered match wins.

        "order.*" matches every type that begins with "order.". An event that no name fits is acknowledged, with a
        warning for its type; under on("*"), last, a function that does nothing says that this is meant.

        `timeout`: after this time the function is cancelled and the event has failed. `attempts`: after so many
        deliveries an event goes to the dead stream, in place of the group's max_deliveries.
        """
        timeout_s = seconds_of(timeout)

        def register(function: F) -> F:
            self._routes.add(event_types, FunctionRoute(function, timeout_s, attempts))
            return function

        return register

    async def run(self, handle: Callable[[Received], Awaitable[None]] | None = None) -> None:
        """Read until stop(). Redis being away is waited out; a wrong password or a missing right is raised.

        `handle` gets the events that no function under on() handles; without it they are acknowledged. It says by an
        exception that it failed. Raises TypeError for a function that is not `async def`.
        """
        self._routes.complete(handle)
        permits = None if self._single else asyncio.Semaphore(self._concurrency)
        runners = [tasks.TaskRunner(*each, self._stopped, permits) for each in self._readers]
        try:
            await self._begin()
            await tasks.work(runners, self._handle, self.stop)
        finally:
            self._forget_stop()
            await self._end()

    def stop(self) -> None:
        """End run() after the current event, or after at most `block`. From the loop: loop.add_signal_handler(...)."""
        for reader, _ in self._readers:
            reader.stopping = True
        self._stopped.set()

    def _forget_stop(self) -> None:
        for reader, _ in self._readers:
            reader.stopping = False
        self._stopped = asyncio.Event()  # another loop may run the next one

    async def _handle(self, step: CallApplication) -> Any:
        try:
            async with django_connections.usable_async():
                return await self._run(step)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise function_answers.FunctionCancelled from error  # it awaited something that was cancelled

    async def _run(self, step: CallApplication) -> Any:
        match step:
            case CallApplication("handle", event):
                if (route := self._routes.find(event.event_type)) is not None:
                    with self._span(event):
                        await _within(route, event)
            case CallApplication("has", event) if self._dedup is not None:
                return function_answers.check_known(await self._dedup.has(event.event_id))
            case CallApplication("add", event) if self._dedup is not None:
                await self._dedup.add(event.event_id)
        return None


async def _within(route: FunctionRoute, event: Received) -> None:
    """Call the function, at most for its time. Raises FunctionTooSlow."""
    try:
        async with asyncio.timeout(route.timeout_s) as limit:
            function_answers.check_answer(await function_answers.check_awaitable(route.function(event)))
    except TimeoutError as error:
        if limit.expired():
            raise function_answers.FunctionTooSlow(f"it did not end within {route.timeout_s:g} s") from error
        raise


def spans_of(group: Group) -> Callable[[Received], AbstractContextManager[object]]:
    """The span of the work on an event; none without OpenTelemetry, or where its producer's was not sampled."""

    def span(event: Received) -> AbstractContextManager[object]:
        if (parent := parent_of(event.headers)) is None:
            return NO_SPAN
        message = Message("redis", event.stream, str(event.event_id), event.event_type, group.group, event.entry_id)
        return processing(parent, message, no_error=raised.Wait)

    return span


def keys_of_readers(client: Any, group: Group) -> list[tuple[str, ...]]:
    """Which keys each reader reads. On one server: one reader for all keys.

    In a Cluster: one reader for each key, because one command can read only one hash slot. So a shard whose node is
    away holds up no other.
    """
    return [(key,) for key in group.keys] if isinstance(client, OF_A_CLUSTER) else [group.keys]


def readers_of(
    client: Any,
    group: Group,
    outages: Outages,
    on_error: OnError | None,
    has_store: bool,
    max_deliveries: Callable[[str], int | None],
) -> Mapping[tuple[str, ...], Reader]:
    """The readers of a consumer, by the keys that each of them reads."""
    shares = Shares(group.consumer, group.claim_idle_millis / 1000)

    def reader(keys: tuple[str, ...]) -> Reader:
        made: Reader
        if group.ordered:
            made = OrderedReader(group, outages, on_error, has_store, keys, shares, max_deliveries=max_deliveries)
        else:
            made = GroupReader(group, outages, on_error, has_store, keys, max_deliveries=max_deliveries)
        made.server = address_of(client)
        return made

    return {keys: reader(keys) for keys in keys_of_readers(client, group)}
