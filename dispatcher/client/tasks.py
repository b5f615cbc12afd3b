"""Carries out the steps of an AsyncConsumer's readers: of one in the task of run(), of several in a task each."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dispatcher.client.commands import GONE, answer_of
from dispatcher.client.function_answers import failing
from dispatcher.client.reader import Reader
from dispatcher.client.steps import (
    AwaitEntry,
    Call,
    CallApplication,
    Handle,
    Join,
    Reconnect,
    ReturnPermit,
    Sleep,
    Step,
    Steps,
    TakePermit,
    advance,
)

Run = Callable[[CallApplication], Awaitable[Any]]


class TaskRunner:
    """One reader at work. `permits`: those that the readers share; None: entries are handled in the reader's task."""

    def __init__(
        self, reader: Reader, commands: Any, stopped: asyncio.Event, permits: asyncio.Semaphore | None
    ) -> None:
        self._reader = reader
        self._commands = commands
        self._stopped = stopped
        self._permits = permits
        self._has_permit = False  # and has not used it
        self._in_hand: set[asyncio.Task[None]] = set()

    async def work(self, run: Run) -> None:
        """Until the reader has ended."""
        try:
            await self._carry_out(self._reader.steps(), run)
        except asyncio.CancelledError:
            for task in self._in_hand:
                task.cancel()
            raise
        finally:
            self._return_permit()
            await self._join()
            await self._commands.aclose()

    async def _carry_out(self, steps: Steps, run: Run) -> None:
        with contextlib.closing(steps):
            step = advance(steps, None, None)
            while step is not None:
                try:
                    answer = await self._do(step, run)
                except Exception as error:
                    step = advance(steps, None, error)
                else:
                    step = advance(steps, answer, None)

    async def _take(self, steps: Steps, run: Run) -> None:
        try:
            await self._carry_out(steps, run)
        except Exception as error:
            self._reader.failed.append(error)
        finally:
            if self._permits is not None:
                self._permits.release()

    async def _do(self, step: Step, run: Run) -> Any:
        match step:
            case Call(method, arguments, options):
                return await answer_of(getattr(self._commands, method)(*arguments, **options))
            case CallApplication():
                with failing():
                    return await run(step)
            case TakePermit(seconds):
                return await self._take_permit(seconds)
            case ReturnPermit():
                self._return_permit()
            case Handle(steps) if self._permits is None:
                await self._carry_out(steps, run)
            case Handle(steps):
                self._has_permit = False
                task = asyncio.create_task(self._take(steps, run))
                self._in_hand.add(task)
                task.add_done_callback(self._in_hand.discard)
            case Join():
                await self._join()
            case AwaitEntry(seconds):
                if self._in_hand:
                    await asyncio.wait(self._in_hand, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            case Reconnect():
                with contextlib.suppress(*GONE):
                    closing = self._commands.reconnect()
                    if closing is not None:
                        await closing
            case Sleep(seconds):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._stopped.wait()
        return None

    async def _take_permit(self, seconds: float) -> bool:
        if self._permits is not None:
            try:
                async with asyncio.timeout(seconds):
                    await self._permits.acquire()
            except TimeoutError:
                return False
            self._has_permit = True
        return True

    def _return_permit(self) -> None:
        if self._permits is not None and self._has_permit:
            self._has_permit = False
            self._permits.release()

    async def _join(self) -> None:
        if self._in_hand:
            await asyncio.wait(self._in_hand)


async def work(runners: Sequence[TaskRunner], run: Run, stop: Callable[[], None]) -> None:
    """Until all readers have ended. One that fails stops the others, and its error is raised."""
    if len(runners) == 1:
        return await runners[0].work(run)
    failures: list[Exception] = []

    async def watch(runner: TaskRunner) -> None:
        try:
            await runner.work(run)
        except Exception as error:
            failures.append(error)
            stop()

    async with asyncio.TaskGroup() as group:
        for runner in runners:
            group.create_task(watch(runner))
    if failures:
        raise failures[0]
    return None
