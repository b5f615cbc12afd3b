"""How long dispatchers have given no sign of life. Pure; measured by this process's monotonic clock.

A sign of life is a value in Postgres that changes, never a time that is compared: clocks may be set.
"""


class Silence:
    """The last sign of life of each dispatcher, and since when it stands still. Seconds; written by one task only."""

    def __init__(self, lease_s: float, *, at_most_s: float) -> None:
        self._lease_s = lease_s
        self._at_most_s = at_most_s  # what one check may count for: one that came late says nothing of the time before
        self._watched_s = 0.0  # how long signs could be seen to change; stands still while nobody checks
        self._checked_at: float | None = None
        self._seen: dict[int, tuple[str, float]] = {}  # by id: the value, and _watched_s when it began to stand still

    def forget(self) -> None:
        """Begin anew: while we had no session others may have had none either."""
        self._seen.clear()
        self._checked_at = None

    def note_check(self, now: float) -> None:
        """Note that a check begins, then call `note()` for each dispatcher. `now`: monotonic seconds."""
        if self._checked_at is not None:
            self._watched_s += min(now - self._checked_at, self._at_most_s)
        self._checked_at = now

    def note(self, dispatcher: int, sign: str) -> bool:
        """Note a dispatcher's last sign of life. Returns whether it stood still for the lease."""
        seen = self._seen.get(dispatcher)
        if seen is None or seen[0] != sign:
            self._seen[dispatcher] = sign, self._watched_s
            return False
        return self._watched_s - seen[1] >= self._lease_s
