"""The same error again: written now and then, with how often it was passed over, or an outage would fill the disk."""

from collections.abc import Callable

EVERY_S = 5.0  # the same is written at most this often
AT_MOST = 64  # different errors remembered


class Throttle:
    """Remembers what was written when. Used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._written: dict[str, tuple[float, int]] = {}  # error -> when last written, how many since

    def __len__(self) -> int:
        return len(self._written)

    def suppressed(self, error: str) -> int | None:
        """How often the same was passed over since it was last written; None: pass over it once more."""
        now = self._clock()
        written, passed_over = self._written.get(error, (None, 0))
        if written is not None and now - written < EVERY_S:
            self._written[error] = (written, passed_over + 1)
            return None
        if len(self._written) >= AT_MOST and error not in self._written:
            self._written.clear()  # errors that are never the same twice must not pile up
        self._written[error] = (now, 0)
        return passed_over
