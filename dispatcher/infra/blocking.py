"""Calls that may block for long, in daemon threads: nobody waits for them longer than they want to.

Neither the event loop nor the end of the process, which the threads of asyncio and of anyio would hold up.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from dispatcher.core.errors import Unreachable

T = TypeVar("T")
PATIENCE_S = 1.0


def in_a_thread(function: Callable[[], T], name: str) -> "asyncio.Future[T]":
    """Run it in a thread of its own; what it returns or raises. Raises RuntimeError: no thread can be started."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        if not future.done():
            result()

    def run() -> None:
        try:
            value = function()
        except Exception as error:
            failed = error
            settled: Callable[[], None] = lambda: future.set_exception(failed)  # noqa: E731
        else:
            settled = lambda: future.set_result(value)  # noqa: E731
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, settled)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class CurrentSetting(Generic[T]):
    """A setting as it is now. `ask()` may read it from a mount that hangs: then the last known one serves."""

    def __init__(self, ask: Callable[[], T], *, patience_s: float = PATIENCE_S) -> None:
        self._ask = ask
        self._patience_s = patience_s
        self._asking: asyncio.Future[T] | None = None  # one at a time: a mount that hangs costs one thread
        self._known: list[T] = []  # none or one; written by _answered()

    async def get(self) -> T:
        """Ask, and wait a second at most. Raises what `ask` raises, and Unreachable: nothing is known yet."""
        if self._asking is None:
            try:
                self._asking = in_a_thread(self._ask, "setting")
            except RuntimeError:
                return self._last()
            self._asking.add_done_callback(self._answered)
        asking = self._asking
        await asyncio.wait([asking], timeout=self._patience_s)
        return asking.result() if asking.done() else self._last()

    def _last(self) -> T:
        if not self._known:
            raise Unreachable(f"the file that holds the URL did not answer within {self._patience_s:g} s")
        return self._known[0]

    def _answered(self, asking: "asyncio.Future[T]") -> None:
        self._asking = None
        if not asking.cancelled() and asking.exception() is None:
            self._known = [asking.result()]
