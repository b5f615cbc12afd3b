"""How long a claim has stood still, whatever Postgres's clock does meanwhile."""

from typing import Any

import pytest

from dispatcher.upkeep.watched_claims import WatchedClaim, WatchedClaims

LEASE_S = 30.0
CLAIM = WatchedClaim("claim", 7, "2025-06-01 12:00:00+00")


class Watch:
    """Checks every five seconds by our clock. `postgres_s`: Postgres's clock; it runs as ours, unless it is set."""

    def __init__(self) -> None:
        self.claims = WatchedClaims(LEASE_S, at_most_s=10.0)
        self.stood_still: dict[WatchedClaim, int] = {}
        self.now, self.postgres_s = 1000.0, 1_750_000_000.0

    def check(
        self, picked_at: float, claim: WatchedClaim = CLAIM, *, after_s: float = 5.0, took_s: float = 0.01
    ) -> bool:
        """Check, and list a claim that was made at this reading of Postgres's clock. Whether it stood still."""
        self.now += after_s
        self.postgres_s += after_s
        self.stood_still = self.claims.begin_check(self.now)
        self.claims.note_check(self.now, self.now + took_s, self.postgres_s)
        return self.claims.note(claim, 1, self.postgres_s - picked_at)


def checks_until_it_stood_still(watch: Watch, picked_at: float) -> int:
    return next(checks for checks in range(1, 100) if watch.check(picked_at))


def test_a_claim_made_before_we_watched_has_the_whole_lease() -> None:
    watch = Watch()
    assert checks_until_it_stood_still(watch, watch.postgres_s - 3600) == 7


def test_one_made_while_we_watched_is_as_old_as_it_says() -> None:
    watch = Watch()
    for _ in range(8):
        watch.check(watch.postgres_s, WatchedClaim("another", 7, str(watch.postgres_s)))
    assert checks_until_it_stood_still(watch, watch.postgres_s - 20) == 2


@pytest.mark.promise("clock")
@pytest.mark.parametrize("step_s", [-86_400.0, -60.0, -1.0, 1.0, 60.0, 86_400.0])
def test_a_clock_that_is_set_makes_no_claim_stand_still_and_holds_none_up(step_s: float) -> None:
    watch = Watch()
    for _ in range(8):
        watch.check(watch.postgres_s, WatchedClaim("another", 7, str(watch.postgres_s)))
    claimed_at = watch.postgres_s + 4
    assert not watch.check(claimed_at)
    watch.postgres_s += step_s
    assert checks_until_it_stood_still(watch, claimed_at) == 6
    fresh = WatchedClaim("made after it", 7, str(watch.postgres_s))
    assert not watch.check(watch.postgres_s, fresh)


@pytest.mark.parametrize("late", [{"took_s": 4.0}, {"after_s": 3600.0}], ids=["slow", "late"])
def test_time_in_which_nobody_could_renew_does_not_count(late: dict[str, Any]) -> None:
    watch = Watch()
    assert not watch.check(watch.postgres_s)
    assert not watch.check(watch.postgres_s - 3600, **late)


def test_another_session_begins_anew() -> None:
    watch = Watch()
    claimed_at = watch.postgres_s
    assert checks_until_it_stood_still(watch, claimed_at) == 7
    watch.claims.forget()
    assert not watch.check(claimed_at)
    assert not watch.stood_still


def test_rows_without_a_claim_id_are_as_old_as_they_say() -> None:
    """Nobody works on them."""
    unclaimed = WatchedClaim(None, None, None)
    watch = Watch()
    assert not watch.check(watch.postgres_s + 3600, unclaimed)
    watch = Watch()
    assert watch.check(watch.postgres_s - LEASE_S, unclaimed)


def test_what_stood_still_is_asked_for_by_its_row() -> None:
    watch = Watch()
    while not watch.check(watch.postgres_s - 3600):
        assert not watch.stood_still
    assert watch.stood_still == {CLAIM: 1}
    watch.claims.drop(CLAIM)
    assert not watch.check(watch.postgres_s)
    assert not watch.stood_still
