"""Keeps an outage from filling the disk: the same error is logged at most every few seconds, with a count."""

from collections.abc import Callable

EVERY_S = 5.0  # between two lines of the same error
MAX_ERRORS = 64  # remembered


class Throttle:
    """Remembers what was written when. Used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._written: dict[str, tuple[float, int]] = {}  # error -> when last written, how many since

    def __len__(self) -> int:
        return len(self._written)

    def suppressed(self, error: str) -> int | None:
        """How many times this error was left out since it was last written; None: leave it out again."""
        now = self._clock()
        written, passed_over = self._written.get(error, (None, 0))
        if written is not None and now - written < EVERY_S:
            self._written[error] = (written, passed_over + 1)
            return None
        if len(self._written) >= MAX_ERRORS and error not in self._written:
            self._written.clear()  # errors that are never the same twice must not pile up
        self._written[error] = (now, 0)
        return passed_over
