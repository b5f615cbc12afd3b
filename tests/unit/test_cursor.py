"""Where claims begin: in a backlog after the last key, and from the start often enough for late commits."""

from datetime import UTC, datetime

import pytest

from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.relay.cursor import REST, START_AGAIN_AT_MOST_S, START_AGAIN_S, ClaimCursor
from dispatcher.stages.claim import FROM_THE_START, ClaimKey

DUE = datetime(2025, 6, 1, tzinfo=UTC)
AFTER_SEVEN = ClaimKey(DUE, 7)


def full_batch(answered_at: float) -> Batch:
    row = ClaimedRow(7, DUE, "e", "m", "made", "message", "a", DUE, "{}", None, 0, 0.0)
    return Batch("claim", [row], "0-0", answered_at)


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
    assert place.start(100.0) == (FROM_THE_START, None)
    place.advance(full_batch(100.0 + walk_s), full=True)
    assert place.start(100.0 + rest_s - 0.001) == (AFTER_SEVEN, None)
    place.advance(full_batch(100.0 + rest_s), full=True)
    assert place.start(100.0 + rest_s + 0.001) == (FROM_THE_START, None)


def test_a_claim_that_is_not_full_begins_the_next_from_the_start() -> None:
    place = ClaimCursor(filtered=False)
    place.start(100.0)
    place.advance(full_batch(100.1), full=True)
    place.start(100.2)
    place.advance(full_batch(100.3), full=False)
    assert place.start(100.4) == (FROM_THE_START, None)
