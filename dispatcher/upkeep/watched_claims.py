"""How long claims have stood still: not renewed, not settled.

Measured by this process's monotonic clock. The times in the table are readings of Postgres's clock, which may be set at
any moment: by a clock that went forward every living dispatcher would look frozen, by one that went back none. They
are believed only for the time in which we have seen that clock run as ours does.
"""

from typing import NamedTuple

SLOW_S = 1.0  # a check that took longer says too little about Postgres's clock
APART_S = 0.2  # so far both clocks may drift apart between two checks


class WatchedClaim(NamedTuple):
    """A claim as it was listed. `claim_id` None: rows that are picked without one, all of this owner together."""

    claim_id: str | None
    owner: int | None
    picked_at: str | None  # when it was made or renewed, as Postgres wrote it; another value is a sign of life


class WatchedClaims:
    """The claims listed so far. Written by one task only. Seconds; `now` and `began` are monotonic."""

    def __init__(self, lease_s: float, *, at_most_s: float) -> None:
        self._lease_s = lease_s
        self._at_most_s = at_most_s  # what one check may count for: one that came late says nothing of the time before
        self._watched_s = 0.0  # how long claims could be seen to be renewed; stands still while nobody checks
        self._believed_from_s = 0.0  # of _watched_s: since when Postgres's clock has run as ours
        self._last_check: tuple[float, float, float] | None = None  # the last one: began, ended, Postgres's clock
        # Of each one of its rows, and _watched_s when it began to stand still.
        self._claims: dict[WatchedClaim, tuple[int, float]] = {}

    def forget(self) -> None:
        """Begin anew on a new session: while there was none nobody could renew, and it may be another server."""
        self._claims.clear()
        self._last_check, self._believed_from_s = None, self._watched_s

    def due(self, now: float) -> dict[WatchedClaim, int]:
        """Begin a check: those that stood still for the lease, and one row of each. Ask whether it is as it was."""
        if self._last_check is not None:
            self._watched_s += min(now - self._last_check[0], self._at_most_s)
        return {
            claim: row for claim, (row, since_s) in self._claims.items() if self._watched_s - since_s >= self._lease_s
        }

    def note_check(self, began: float, ended: float, postgres_s: float) -> None:
        """Note when a check began and ended, and what Postgres's clock said (Unix seconds)."""
        as_ours = False
        if self._last_check is not None:
            last_began, last_ended, last_postgres_s = self._last_check
            passed_s = postgres_s - last_postgres_s
            as_ours = began - last_ended - APART_S <= passed_s <= ended - last_began + APART_S
        if not as_ours or ended - began > SLOW_S:
            self._believed_from_s = self._watched_s
        self._last_check = began, ended, postgres_s

    def note(self, claim: WatchedClaim, row: int, age_s: float) -> bool:
        """Note a claim that was listed just now, and one of its rows. Returns whether it has stood still for the lease.

        `age_s`: what its time says, by Postgres's clock; negative: it is from the future.
        """
        believed_s = self._watched_s - self._believed_from_s
        if claim.claim_id is None:
            believed_s = max(age_s, 0.0)  # nobody works on such rows: no harm if the clock lies
        # What is from the future, or from before the time that is believed, has stood still for all of that time.
        stood_s = age_s if 0.0 <= age_s <= believed_s else believed_s
        row, since_s = self._claims.setdefault(claim, (row, self._watched_s - stood_s))
        return self._watched_s - since_s >= self._lease_s

    def drop(self, claim: WatchedClaim) -> None:
        """It was taken over or settled, or shows another sign of life."""
        self._claims.pop(claim, None)
