"""Exceptions for handlers to raise.

Any other costs an attempt, and the event is tried again after the usual pause, unless it is one of the handler's
outages, which cost nothing.
"""

from datetime import timedelta

LONGEST_S = 366 * 86_400.0
SHORTEST_WAIT_S = 0.1


class Retry(Exception):
    """Try again, not before `after` (seconds or a timedelta; None: the usual pause). Costs an attempt.

    `reason` is kept in last_error: say what is wrong, not with whose data. Raises ValueError when `after` is
    negative, not a number, or more than LONGEST_S.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.after_s = None if after is None else _seconds("Retry", after)


class Wait(Exception):
    """Not now, and nobody's failure: call again in `after` (seconds or a timedelta). Costs no attempt.

    For what waiting changes: a time of day, a quota, something that is not there yet. An event may wait any number of
    times: it counts in the age of the oldest unsettled event, from when it occurred. `reason` is kept in last_error.
    Raises ValueError when `after` is negative, not a number, or more than LONGEST_S; less than SHORTEST_WAIT_S counts
    as that.
    """

    def __init__(self, after: float | timedelta, reason: str = "") -> None:
        super().__init__(reason)
        self.after_s = max(SHORTEST_WAIT_S, _seconds("Wait", after))


class Dead(Exception):
    """This event can never succeed: move it to the dead-letter queue at once. `reason` is kept in last_error."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


def _seconds(name: str, after: float | timedelta) -> float:
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    if not 0 <= seconds <= LONGEST_S:  # also NaN, which no row could be due at
        raise ValueError(f"{name}(after=...) takes 0 to {LONGEST_S:.0f} seconds, or a timedelta")
    return float(seconds)
