"""How long claims have stood still: not renewed, not settled.

This is measured by the monotonic clock of this process. The times in the table are readings of Postgres's clock, which
may be set at any moment: if it was set forward, every living dispatcher would look frozen; if it was set back, none
would. So a time in the table is believed only as far back as we have seen Postgres's clock run as ours does.
"""

from typing import NamedTuple

SLOW_S = 1.0  # a check that took longer says too little about Postgres's clock
APART_S = 0.2  # so far both clocks may drift apart between two checks


class WatchedClaim(NamedTuple):
    """A claim as it was listed. `claim_id` None: all rows of this owner that are picked without a claim id."""

    claim_id: str | None
    owner: int | None
    picked_at: str | None  # when the claim was made or renewed, as Postgres wrote it; a new value is a sign of life


class WatchedClaims:
    """The claims listed so far. Written by one task only. Times are in seconds; `now` and `began` are monotonic."""

    def __init__(self, lease_s: float, *, at_most_s: float) -> None:
        self._lease_s = lease_s
        self._at_most_s = at_most_s  # what one check counts for: if it came late, it says nothing of the time before
        self._watched_s = 0.0  # how long claims could be seen to be renewed; stands still while nobody checks
        self._believed_from_s = 0.0  # of _watched_s: since when Postgres's clock has run as ours
        self._last_check: tuple[float, float, float] | None = None  # when it began, when it ended, Postgres's clock
        # Of each claim the id of one of its rows, and what _watched_s was when the claim began to stand still.
        self._claims: dict[WatchedClaim, tuple[int, float]] = {}

    def forget(self) -> None:
        """Begin anew on a new session: without a session nobody could renew, and it may lead to another server."""
        self._claims.clear()
        self._last_check, self._believed_from_s = None, self._watched_s

    def begin_check(self, now: float) -> dict[WatchedClaim, int]:
        """Begin a check: returns the claims that stood still for the lease so far, each with the id of one of its rows.

        The check has to ask Postgres whether these rows are as they were.
        """
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

        `age_s`: how long ago it was made or renewed, by Postgres's clock; negative: in the future.
        """
        believed_s = self._watched_s - self._believed_from_s
        if claim.claim_id is None:
            believed_s = max(age_s, 0.0)  # nobody works on such rows: no harm if the clock lies
        # A time in the future, or before the believed time: the claim has stood still for all of the believed time.
        stood_s = age_s if 0.0 <= age_s <= believed_s else believed_s
        row, since_s = self._claims.setdefault(claim, (row, self._watched_s - stood_s))
        return self._watched_s - since_s >= self._lease_s

    def drop(self, claim: WatchedClaim) -> None:
        """Forget a claim that was taken over or settled, or shows a new sign of life."""
        self._claims.pop(claim, None)
