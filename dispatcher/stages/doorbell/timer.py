"""A timer that any task of our own process may set: it ends the doorbell's wait, now or when a row will be due."""

from collections.abc import Awaitable, Callable
from math import inf

import anyio
import anyio.lowlevel


class WakeTimer:
    """One task waits, any task sets it; all on one event loop. Times as `clock` gives them, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now = False  # look at once
        self._due_at = inf  # when some row of ours is due
        self._scope: anyio.CancelScope | None = None

    def wake_in(self, due_in_s: float = 0.0) -> None:
        """End the wait in so many seconds, 0: now; a wait that begins later too."""
        at = self._clock() + due_in_s
        if at < self._due_at:
            self._due_at = at
            if self._scope is not None:
                self._scope.cancel()
        if due_in_s <= 0:
            self._now = True

    def nudged(self, *, early: bool = False) -> bool:
        """Whether there was a nudge whose time has come; then it is forgotten. `early`: only one that was for now."""
        if not self._now and (early or self._clock() < self._due_at):
            return False
        self._now, self._due_at = False, inf
        return True

    async def wait(self, deadline: float, happens: Callable[[], Awaitable[object]]) -> bool:
        """Wait until `happens()` returns, a nudge or the deadline. False: one of these two was there already."""
        left = min(deadline, self._due_at) - self._clock()
        if self._now or left <= 0:
            await anyio.lowlevel.checkpoint()  # or a loop of waits that end at once would keep everybody else waiting
            return False
        with anyio.move_on_after(left) as self._scope:
            await happens()
        self._scope = None
        return True
