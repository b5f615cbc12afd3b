"""Reads a stream without a group: every process that reads gets every event. For gateways, caches, watchers.

Nothing is acknowledged and nothing stays behind in Redis. A process that starts anew begins where it says: at the
newest entry, or after the last one that it has dealt with (`after=tail.position`). An event may come twice, with one
event_id.
"""

import dispatcher.client.needs_redis  # noqa: F401 -- before anything else imports redis

# isort: split
import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Self

import redis
import redis.asyncio

from dispatcher.client.arguments import require_client, require_patience
from dispatcher.client.commands import GONE, OF_A_CLUSTER, address_of, answer_of, commands_for
from dispatcher.client.group import duration, millis, require_shards, shard_keys
from dispatcher.client.received import Received
from dispatcher.client.steps import Call, Deliver, Reconnect, Sleep, Step, advance
from dispatcher.client.tailing import OnMissed, TailReader
from dispatcher.core.page_size import PAGE_BYTES, PageSize

_END = object()


class _Base:
    """What both kinds have in common: which keys, from where on."""

    _stopped: threading.Event | asyncio.Event

    def __init__(
        self,
        client: Any,
        stream: str,
        shards: int,
        after: str | Mapping[str, str],
        count: int,
        block: timedelta,
        block_ms: int | None,
        on_missed: OnMissed | None,
        *,
        asynchronous: bool,
    ) -> None:
        require_client(client, asynchronous=asynchronous)
        require_shards(stream, shards)
        if count < 1:
            raise ValueError("count must be 1 or more")
        block = duration("block", block, block_ms)
        require_patience(client, block)
        keys = shard_keys(stream, shards)
        positions = dict.fromkeys(keys, after) if isinstance(after, str) else dict(after)
        if set(positions) != set(keys):
            raise ValueError(f"after must have an id for each key of the stream: {', '.join(keys)}")
        parts = [(key,) for key in keys] if isinstance(client, OF_A_CLUSTER) else [keys]
        bytes_each = PAGE_BYTES // len(parts)

        def reader(part: Iterable[str], position: Mapping[str, str]) -> TailReader:
            after_each = {key: position[key] for key in part}
            made = TailReader(after_each, PageSize(count, bytes_each), millis(block), on_missed, time.monotonic)
            made.server, made.says_empty = address_of(client), keys[0] in after_each
            return made

        def readers(position: Mapping[str, str]) -> list[tuple[TailReader, Any]]:
            return [(reader(part, position), commands_for(client, part)) for part in parts]

        self._readers_after = readers
        self._readers = readers(positions)

    @property
    def position(self) -> dict[str, str]:
        """Of each key the id of the last entry that was dealt with: that before the one that is dealt with now.

        Give it as `after` to go on there. "$" while nothing is known yet.
        """
        return {key: after for reader, _ in self._readers for key, after in reader.after.items()}

    def _begin(self) -> list[tuple[TailReader, Any]]:
        """The readers of a loop are its own: those of one that was left read on for a while, and what they read then
        would be passed over.
        """
        self._readers = self._readers_after(self.position)
        if self._stopped.is_set():
            self.stop()
        return self._readers

    def stop(self) -> None:
        self._stopped.set()  # first: a loop that begins just now looks
        for reader, _ in self._readers:
            reader.stopping = True


class Tail(_Base):
    """`for event in tail:` every event from `after` on, as a dispatcher.client.consumer.Received, until stop().

    A second loop goes on after `position`: the event at which the first one was left comes again.
    `after`: "$" (what comes from now on), "0" (the oldest entry), the id of an entry, a moment ("<ms since 1970>-0")
    or a `position`. `client`: as of a Consumer.
    `shards`: as of the dispatchers. `count`: entries of one read, at most: fewer where they are large, for about 4 MiB.
    `block`: the longest wait; a stop waits for it (`block_ms` is its old name, in milliseconds).
    `on_missed(key)`: entries may have been trimmed before they were read, as when this process stood still for hours,
    or Redis lost the newest ones: what it keeps is to be loaded anew. Redis being away is waited out; a wrong password
    is raised.
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        stream: str,
        *,
        shards: int = 1,
        after: str | Mapping[str, str] = "$",
        count: int = 100,
        block: timedelta = timedelta(seconds=1),
        on_missed: OnMissed | None = None,
        block_ms: int | None = None,
    ) -> None:
        super().__init__(client, stream, shards, after, count, block, block_ms, on_missed, asynchronous=False)
        self._stopped: threading.Event = threading.Event()

    def __iter__(self) -> Generator[Received, None, None]:
        readers = self._begin()
        if len(readers) == 1:
            with contextlib.closing(readers[0][1]):
                yield from self._events(*readers[0])
            return
        # In a Cluster one thread a key reads; each waits until its event was taken, so that `position` is true.
        came: queue.SimpleQueue[tuple[Any, threading.Event]] = queue.SimpleQueue()
        threads = [threading.Thread(target=self._feed, args=(came, *each), daemon=True) for each in readers]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                found, taken = came.get()
                if isinstance(found, Received):
                    yield found
                    taken.set()
                elif found is _END:
                    running -= 1
                else:
                    raise found
        finally:
            for reader, _ in readers:
                reader.stopping = True

    def stop(self) -> None:
        """End the loop, after at most `block`. From any thread, or from a signal handler."""
        super().stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _feed(self, came: "queue.SimpleQueue[tuple[Any, threading.Event]]", reader: TailReader, commands: Any) -> None:
        taken = threading.Event()
        try:
            for event in self._events(reader, commands):
                taken.clear()
                came.put((event, taken))
                while not taken.wait(0.1):
                    if reader.stopping:
                        return
        except Exception as error:
            came.put((error, taken))
        finally:
            came.put((_END, taken))

    def _events(self, reader: TailReader, commands: Any) -> Iterator[Received]:
        with contextlib.closing(reader.steps()) as steps:
            step = advance(steps, None, None)
            while step is not None:
                answer, failure = None, None
                if isinstance(step, Deliver):
                    yield step.event
                else:
                    try:
                        answer = self._do(step, commands)
                    except Exception as error:
                        failure = error
                step = advance(steps, answer, failure)

    def _do(self, step: Step, commands: Any) -> Any:
        match step:
            case Call(method, arguments, options):
                return getattr(commands, method)(*arguments, **options)
            case Reconnect():
                with contextlib.suppress(*GONE):
                    commands.reconnect()
            case Sleep(seconds):
                self._stopped.wait(seconds)
        return None


class AsyncTail(_Base):
    """`async for event in tail:` the same on asyncio."""

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        stream: str,
        *,
        shards: int = 1,
        after: str | Mapping[str, str] = "$",
        count: int = 100,
        block: timedelta = timedelta(seconds=1),
        on_missed: OnMissed | None = None,
        block_ms: int | None = None,
    ) -> None:
        super().__init__(client, stream, shards, after, count, block, block_ms, on_missed, asynchronous=True)
        self._stopped: asyncio.Event = asyncio.Event()

    async def __aiter__(self) -> AsyncGenerator[Received, None]:
        readers = self._begin()
        if len(readers) == 1:
            events = self._events(*readers[0])
            async with contextlib.aclosing(readers[0][1]), contextlib.aclosing(events):
                async for event in events:
                    yield event
            return
        came: asyncio.Queue[tuple[Any, Callable[[], None]]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._feed(came, *each)) for each in readers]
        running = len(tasks)
        try:
            while running:
                found, take = await came.get()
                if isinstance(found, Received):
                    yield found
                    take()
                elif found is _END:
                    running -= 1
                else:
                    raise found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def stop(self) -> None:
        """End the loop, after at most `block`. From the loop: loop.add_signal_handler(...)."""
        super().stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    async def _feed(
        self, came: "asyncio.Queue[tuple[Any, Callable[[], None]]]", reader: TailReader, commands: Any
    ) -> None:
        taken = asyncio.Event()
        try:
            async with contextlib.aclosing(self._events(reader, commands)) as events:
                async for event in events:
                    taken.clear()
                    came.put_nowait((event, taken.set))
                    await taken.wait()
        except Exception as error:
            came.put_nowait((error, taken.set))
        finally:
            came.put_nowait((_END, taken.set))

    async def _events(self, reader: TailReader, commands: Any) -> AsyncGenerator[Received, None]:
        with contextlib.closing(reader.steps()) as steps:
            step = advance(steps, None, None)
            while step is not None:
                answer, failure = None, None
                if isinstance(step, Deliver):
                    yield step.event
                else:
                    try:
                        answer = await self._do(step, commands)
                    except Exception as error:
                        failure = error
                step = advance(steps, answer, failure)

    async def _do(self, step: Step, commands: Any) -> Any:
        match step:
            case Call(method, arguments, options):
                return await answer_of(getattr(commands, method)(*arguments, **options))
            case Reconnect():
                with contextlib.suppress(*GONE):
                    closing = commands.reconnect()
                    if closing is not None:
                        await closing
            case Sleep(seconds):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._stopped.wait()
        return None
