"""Whether somebody watches the console: what only they need is looked up only then, however many they are."""

from collections.abc import Callable
from time import monotonic

import anyio

LASTS_S = 30.0  # the page asks every few seconds


class Attention:
    """Somebody watches from a look on until `LASTS_S` after the last. Written by the event loop's thread only."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until = float("-inf")
        self._begun = anyio.Event()

    def look(self) -> None:
        """Somebody looked now."""
        self._until = self._clock() + LASTS_S
        self._begun.set()
        self._begun = anyio.Event()

    @property
    def there(self) -> bool:
        """Somebody watches."""
        return self._clock() < self._until

    async def begun(self) -> None:
        """Return when somebody watches, at once when they do already."""
        if not self.there:
            await self._begun.wait()

    async def rest(self, alone_s: float, watched_s: float) -> None:
        """Wait `watched_s` while somebody watches; else `alone_s`, or until somebody begins to."""
        if self.there:
            await anyio.sleep(max(0.0, watched_s))
            return
        with anyio.move_on_after(max(0.0, alone_s)):
            await self.begun()
