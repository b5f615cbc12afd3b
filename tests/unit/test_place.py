"""Where claims begin: in a backlog after the last key, and from the start often enough for late commits."""

from datetime import UTC, datetime

import pytest

from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.relay.cursor import CURSOR_AGE_AT_MOST_S, CURSOR_AGE_S, REST, ClaimCursor
from dispatcher.stages.claim import FROM_THE_START, ClaimKey

DUE = datetime(2025, 6, 1, tzinfo=UTC)
AFTER_SEVEN = ClaimKey(DUE, 7)


def full_batch(answered_at: float) -> Batch:
    row = ClaimedRow(7, DUE, "e", "m", "made", "message", "a", DUE, "{}", None, 0, 0.0)
    return Batch("claim", [row], "0-0", answered_at)


@pytest.mark.parametrize(
    ("walk_s", "rest_s"),
    [
        (0.003, CURSOR_AGE_S),
        (0.3, 0.3 * REST),  # past 400,000 rows that a snapshot keeps
        (5.0, CURSOR_AGE_AT_MOST_S),
    ],
)
def test_a_walk_from_the_start_is_rested_from(walk_s: float, rest_s: float) -> None:
    place = ClaimCursor(passes_over=False)
    assert place.begin(100.0) == (FROM_THE_START, None)
    place.took(full_batch(100.0 + walk_s), full=True)
    assert place.begin(100.0 + rest_s - 0.001) == (AFTER_SEVEN, None)
    place.took(full_batch(100.0 + rest_s), full=True)
    assert place.begin(100.0 + rest_s + 0.001) == (FROM_THE_START, None)


def test_a_claim_that_is_not_full_begins_the_next_from_the_start() -> None:
    place = ClaimCursor(passes_over=False)
    place.begin(100.0)
    place.took(full_batch(100.1), full=True)
    place.begin(100.2)
    place.took(full_batch(100.3), full=False)
    assert place.begin(100.4) == (FROM_THE_START, None)
