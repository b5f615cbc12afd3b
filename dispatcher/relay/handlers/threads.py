"""Daemon threads for calls that block: as many as are asked for at once, kept for the next call.

A thread cannot be ended from outside. One whose call overstays its time is stuck: nobody waits for it any more, not
even the end of the process (which the threads of asyncio and anyio would hold up), and `stuck` counts it until it ends.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from dispatcher.handlers.exceptions import Wait

NO_THREAD_S = 1.0  # until a call is tried again for which no thread could be started


@dataclass(slots=True)
class CallResult:
    """What came of a call: its result, or what it raised."""

    result: Any = None
    raised: BaseException | None = None


Job = tuple[Callable[[], Any], contextvars.Context, "asyncio.Future[CallResult]"]


class Threads:
    """Runs calls. Its fields are written by the event loop's thread only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[_HandlerThread] = []
        self._abandoned: set[asyncio.Future[CallResult]] = set()
        self._started = 0

    @property
    def stuck(self) -> int:
        """Threads whose call has overstayed its time and goes on."""
        return len(self._abandoned)

    def call(self, function: Callable[[], Any]) -> "asyncio.Future[CallResult]":
        """Run it in a thread. The future never raises: what the call raised is in it."""
        future: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()
        if self._idle:
            thread = self._idle.pop()
        else:
            thread = _HandlerThread(f"{self._name}-{self._started + 1}", asyncio.get_running_loop(), self._ended)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left: nobody's failure, and no end of the process
                future.set_result(CallResult(raised=Wait(NO_THREAD_S, f"no thread can be started ({error})")))
                return future
            self._started += 1
        thread.jobs.put((function, contextvars.copy_context(), future))
        return future

    def abandon(self, future: "asyncio.Future[CallResult]") -> None:
        """Wait for this call no more."""
        if not future.done():
            self._abandoned.add(future)

    def close(self) -> None:
        """Let idle threads end."""
        while self._idle:
            self._idle.pop().jobs.put(None)

    def _ended(self, thread: "_HandlerThread", future: "asyncio.Future[CallResult]", ran: CallResult) -> None:
        self._abandoned.discard(future)
        self._idle.append(thread)
        if not future.done():
            future.set_result(ran)


class _HandlerThread(threading.Thread):
    """Takes one call after another."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        ended: "Callable[[_HandlerThread, asyncio.Future[CallResult], CallResult], None]",
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._loop = loop
        self._ended = ended

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            function, context, future = job
            try:
                ran = CallResult(context.run(function))
            except BaseException as error:  # SystemExit too: it would end this thread in silence
                ran = CallResult(raised=error)
            try:
                self._loop.call_soon_threadsafe(self._ended, self, future, ran)
            except RuntimeError:
                return  # the loop is closed: nobody waits
            del job, function, context, future, ran
