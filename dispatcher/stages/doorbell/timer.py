"""A timer that any task of our own process may set: it ends the doorbell's wait, now or when a row will be due."""

import asyncio
from collections.abc import Callable
from math import inf

import anyio.lowlevel

WhenReadable = Callable[[Callable[[], None] | None], None]


class WakeTimer:
    """One task waits, any task sets it; all on one event loop. Times as `clock` gives them, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now = False  # wake at once
        self._due_at = inf  # when some row of ours is due
        self._ended: asyncio.Future[None] | None = None  # of the wait that is under way

    def wake_in(self, due_in_s: float = 0.0) -> None:
        """End the wait in so many seconds, 0: now; a wait that begins later too."""
        at = self._clock() + due_in_s
        if at < self._due_at:
            self._due_at = at
            self._end()
        if due_in_s <= 0:
            self._now = True

    def nudged(self, *, only_now: bool = False) -> bool:
        """Whether there was a nudge whose time has come; then it is forgotten. `only_now`: one that was for now."""
        if not self._now and (only_now or self._clock() < self._due_at):
            return False
        self._now, self._due_at = False, inf
        return True

    async def wait(self, deadline: float, watch: WhenReadable | None = None) -> bool:
        """Wait until a nudge or the deadline. False: one of these two was there already.

        `watch` is told what to call when something else ends the wait, and after the wait None: no more. One future and
        one timer of the loop: this runs hundreds of times a second, and to cancel a scope would cost three times that.
        """
        left = min(deadline, self._due_at) - self._clock()
        if self._now or left <= 0:
            await anyio.lowlevel.checkpoint()  # or a loop of waits that end at once would keep everybody else waiting
            return False
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        timer = loop.call_later(left, self._end)
        try:
            if watch is not None:
                watch(self._end)
            await self._ended
        finally:
            self._ended = None
            timer.cancel()
            if watch is not None:
                watch(None)
        return True

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
