"""Where claims begin: in a backlog after the last key, and from the start often enough for late commits."""

from datetime import datetime

import pytest

from dispatcher.core.row import UNSCHEDULED, Batch, ClaimedRow
from dispatcher.relay.cursor import REST, START_AGAIN_AT_MOST_S, START_AGAIN_S, ClaimCursor
from dispatcher.stages.claim import FROM_THE_START, IndexKey

DUE = datetime(2025, 6, 1)
AFTER_SEVEN = IndexKey(DUE, 7)


def batch_of(answered_at: float, *ids: int, fresh: tuple[int, ...] = ()) -> Batch:
    rows = [(UNSCHEDULED, row_id) for row_id in fresh] + [(DUE, row_id) for row_id in ids]
    claimed = [ClaimedRow(n, at, "e", "m", "made", "message", "a", DUE, "{}", None, 0, 0.0) for at, n in rows]
    return Batch("claim", claimed, "0-0", answered_at)


def take(place: ClaimCursor, began: float, batch: Batch, limit: int) -> bool:
    """Claim; whether more may follow."""
    return place.advance(batch, limit, place.start(began, limit))


def keys(place: ClaimCursor, now: float, limit: int = 1) -> tuple[IndexKey, IndexKey]:
    """Where the next claim begins, among fresh rows and among the others."""
    start = place.start(now, limit)
    assert start.since_s is None
    return (start.after, FROM_THE_START) if start.fresh_limit is None else (start.fresh_after, start.after)


@pytest.mark.parametrize(
    ("walk_s", "rest_s"),
    [
        (0.003, START_AGAIN_S),
        (0.3, 0.3 * REST),  # past 400,000 rows that a snapshot keeps
        (5.0, START_AGAIN_AT_MOST_S),
    ],
)
def test_a_walk_from_the_start_is_rested_from(walk_s: float, rest_s: float) -> None:
    place = ClaimCursor(filtered=False)
    assert keys(place, 100.0) == (FROM_THE_START, FROM_THE_START)
    assert take(place, 100.0, batch_of(100.0 + walk_s, 7), 1)
    assert keys(place, 100.0 + rest_s - 0.001) == (FROM_THE_START, AFTER_SEVEN)
    assert take(place, 100.0 + rest_s - 0.001, batch_of(100.0 + rest_s, 7), 1)
    assert keys(place, 100.0 + rest_s + 0.001) == (FROM_THE_START, FROM_THE_START)


def test_a_claim_that_is_not_full_begins_the_next_from_the_start() -> None:
    place = ClaimCursor(filtered=False)
    assert take(place, 100.0, batch_of(100.1, 6, 7), 2)
    assert not take(place, 100.2, batch_of(100.3, 8), 2)
    assert keys(place, 100.4) == (FROM_THE_START, FROM_THE_START)


def test_each_kind_goes_on_where_it_ended() -> None:
    place = ClaimCursor(filtered=False)
    assert take(place, 100.0, batch_of(100.1, fresh=(1, 2)), 2)
    assert keys(place, 100.2, 2) == (IndexKey(UNSCHEDULED, 2), FROM_THE_START)
    assert take(place, 100.2, batch_of(100.3, 7, fresh=(5,)), 2)  # the last fresh one, and others have the room
    assert keys(place, 100.4, 2) == (FROM_THE_START, AFTER_SEVEN)
    # There was no room for others: they stay where they are.
    assert take(place, 100.4, batch_of(100.5, fresh=(8, 9)), 2)
    assert keys(place, 100.6, 2) == (IndexKey(UNSCHEDULED, 9), AFTER_SEVEN)


def test_a_claim_that_was_to_take_no_fresh_row_and_found_nothing_is_made_again() -> None:
    place = ClaimCursor(filtered=False)
    for _ in range(8):
        take(place, 100.0, batch_of(100.1, fresh=(1,)), 1)
    without = place.start(102.0, 1)
    assert (without.fresh_limit, without.fresh_after) == (0, FROM_THE_START)
    assert not place.found_nothing(batch_of(102.1), 1, without)
    again = place.start(102.2, 1)
    assert again.fresh_limit is None, "all of them"
    assert place.found_nothing(batch_of(102.3), 1, again)


def test_rows_of_other_types_are_passed_once() -> None:
    place = ClaimCursor(filtered=True)
    assert not take(place, 100.0, batch_of(101.0, 7), 2)  # a second to pass them
    assert keys(place, 101.1) == (FROM_THE_START, FROM_THE_START)
    assert place.wants_highest_id, "before the claim that is about to begin"
    place.note_highest(101.1, 1000)
    place.advance(batch_of(102.1, 8), 2, place.start(101.1, 2))
    start = place.start(102.2, 2)
    assert (start.fresh_after, start.after) == (IndexKey(UNSCHEDULED, 1000), FROM_THE_START)
    assert start.since_s == pytest.approx(2.1)
    place.reset()
    assert keys(place, 102.3) == (FROM_THE_START, FROM_THE_START)
