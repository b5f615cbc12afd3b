"""A consumer beside other work: `with consumer:` on a thread, `async with consumer:` in a task."""

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from dispatcher.client.arguments import require_hook

log = logging.getLogger("dispatcher.client")
F = TypeVar("F", bound=Callable[[], Any])


class Hooks:
    """What an application does before a consumer's first event, and after its last one."""

    _awaits: ClassVar[bool]  # whether a hook may be a coroutine function

    def __init__(self) -> None:
        self._at_start: list[Callable[[], Any]] = []
        self._at_stop: list[Callable[[], Any]] = []

    def on_start(self, function: F) -> F:
        """Call this function before the first event: what it raises ends run().

        Raises TypeError for a generator; a Consumer's for a coroutine function too.
        """
        require_hook(function, may_await=self._awaits)
        self._at_start.append(function)
        return function

    def on_stop(self, function: F) -> F:
        """Call this function when run() ends, after the last event, whatever ends it. The last one is called first.

        Each is called, whatever another one raises.

        Raises TypeError as on_start().
        """
        require_hook(function, may_await=self._awaits)
        self._at_stop.append(function)
        return function


class OnThread(Hooks):
    """`with consumer:` run() on a thread of its own."""

    _awaits = False
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def run(self) -> None:
        """Read and handle events until stop(). Each consumer overrides it."""

    def stop(self) -> None:
        """Ask run() to return once the events in hand are done. Each consumer overrides it."""

    def _forget_stop(self) -> None:
        """It has been obeyed: the next run() would return at once, and nobody would read. Each overrides it."""

    def __enter__(self) -> Self:
        self._error = None
        self._thread = threading.Thread(target=self._run_here, name="consumer")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self._forget_stop()  # run() may have ended before it came
        if self._error is not None and error is None:
            raise self._error

    def _run_here(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._error = error
            _say(error)

    def _begin(self) -> None:
        for hook in self._at_start:
            hook()

    def _end(self) -> None:
        with contextlib.ExitStack() as stack:
            for hook in self._at_stop:
                stack.callback(hook)


class InTask(Hooks):
    """`async with consumer:` run() in a task of its own."""

    _awaits = True
    _task: "asyncio.Task[None] | None" = None

    async def run(self) -> None:
        """Read and handle events until stop(). Each consumer overrides it."""

    def stop(self) -> None:
        """Ask run() to return once the events in hand are done. Each consumer overrides it."""

    def _forget_stop(self) -> None:
        """It has been obeyed: the next run() would return at once, and nobody would read. Each overrides it."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name="consumer")
        self._task.add_done_callback(_say_of_task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])
            self._forget_stop()  # run() may have ended before it came
            if error is None:
                self._task.result()

    async def _begin(self) -> None:
        for hook in self._at_start:
            await _called(hook)

    async def _end(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for hook in self._at_stop:
                stack.push_async_callback(_called, hook)


async def _called(hook: Callable[[], Any]) -> None:
    answer = hook()
    if inspect.isawaitable(answer):
        await answer


def _say_of_task(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _say(error)


def _say(error: BaseException) -> None:
    """At once, because the block that started the consumer may last for days."""
    log.error("the consumer has ended: %s", type(error).__name__)
