"""How a process that is a dispatcher and nothing else begins, ends, and fails."""

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from dispatcher.core.errors import DispatcherError
from dispatcher.infra import early_stop
from dispatcher.infra.forks import by_default_in_children
from dispatcher.infra.output import last_words
from dispatcher.relay.handlers.loop import HandlerLoop

# Whatever PYTHONASYNCIODEBUG says: the loop would be several times slower, and log what its callbacks were given.
LOOP_OPTIONS = {"debug": False, "loop_factory": HandlerLoop}


def freeze() -> None:
    """Take what was loaded at the start out of the garbage collector's sight. Call it once, after all imports.

    A full collection walks the eighty thousand objects of all modules, and nothing is relayed for the 30 to 70 ms that
    takes: once in 200,000 events of a backlog, measured. After this it walks five hundred, in 1 ms.
    """
    gc.collect()
    gc.freeze()


def leave_if_held_up(code: int) -> None:
    """End the process now when a task or thread of a handler goes on: all is settled, and nobody waits for it."""
    if len(asyncio.all_tasks()) > 1 or any(not thread.daemon for thread in threading.enumerate()[1:]):
        last_words()
        os._exit(code)


class Runs(Protocol):
    """A service, or the supervisor of several."""

    exit_code: int

    async def watch_signals(self, *, task_status: TaskStatus[None]) -> None: ...

    async def run(self) -> None: ...


async def run_to_the_end(service: Runs) -> int:
    """Run it until it ends, by a signal for instance; its exit code. Raises DispatcherError."""
    with one_error(), by_default_in_children(early_stop.stop_signals()):
        async with anyio.create_task_group() as everything:
            await everything.start(service.watch_signals)
            try:
                await service.run()
            finally:
                everything.cancel_scope.cancel()
    return service.exit_code


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the one error that a person should read out of the task groups around it; any other comes as it was."""
    try:
        yield
    except BaseExceptionGroup as group:
        for error in _leaves(group):
            if isinstance(error, DispatcherError):
                raise error from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
