"""Exceptions for handlers to raise. Any other costs an attempt, and the event is retried after the usual pause."""

from datetime import timedelta

LONGEST_S = 366 * 86_400.0


class Retry(Exception):
    """Try again, not before `after` (seconds or a timedelta; None: the usual pause). Costs an attempt.

    `reason` is kept in last_error: say what is wrong, not with whose data. Raises ValueError when `after` is
    negative, not a number, or more than LONGEST_S.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason)
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        if seconds is not None and not 0 <= seconds <= LONGEST_S:  # also NaN, which no row could be due at
            raise ValueError(f"Retry(after=...) takes 0 to {LONGEST_S:.0f} seconds, or a timedelta")
        self.after_s = None if seconds is None else float(seconds)


class Dead(Exception):
    """This event can never succeed: move it to the dead-letter queue at once. `reason` is kept in last_error."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
