"""What a claim in order has read, and what follows: whether there is more, and how far the cursor may move."""

from datetime import datetime

import pytest

from dispatcher.relay.order.cursor import Scan, fresh_key
from dispatcher.stages.claim import IndexKey

EARLY, LATE = IndexKey(datetime(2025, 2, 3), 5), IndexKey(datetime(2025, 2, 3), 9)


def scan(
    fresh: tuple[int, int] = (0, 0),
    scheduled: tuple[int, int] = (0, 0),
    *,
    limit: int = 10,
    last: IndexKey | None = EARLY,
) -> Scan:
    """Of each kind: how many rows were read, and through how many the claimer went."""
    last_fresh = fresh_key(3) if fresh[1] else None
    return Scan(limit, 8, fresh[0], scheduled[0], fresh[1], scheduled[1], last_fresh, last)


@pytest.mark.parametrize(
    ("read", "more_fresh", "more_scheduled"),
    [
        (scan(), False, False),
        (scan(fresh=(7, 7)), False, False),
        (scan(fresh=(8, 8)), True, False),  # as many as it might read
        (scan(fresh=(7, 6)), True, False),  # one found no room
        (scan(scheduled=(10, 10)), False, True),
        (scan(scheduled=(4, 3)), False, True),
        (scan(fresh=(7, 7), scheduled=(3, 3)), False, True),
        (scan(fresh=(7, 7), scheduled=(2, 2)), False, False),
    ],
)
def test_there_is_more_where_a_kind_was_not_read_to_its_end(read: Scan, more_fresh: bool, more_scheduled: bool) -> None:
    assert (read.more_fresh, read.more_scheduled, read.more) == (
        more_fresh,
        more_scheduled,
        more_fresh or more_scheduled,
    )


@pytest.mark.parametrize(
    ("read", "covers_early", "covers_late"),
    [
        (scan(scheduled=(3, 3)), True, True),  # to the end
        (scan(scheduled=(10, 10)), True, False),
        (scan(scheduled=(10, 10), last=None), False, False),
        (scan(fresh=(8, 8), scheduled=(1, 1)), False, False),  # scheduled rows behind the last fresh row were not read
        (scan(fresh=(10, 7), scheduled=(0, 0), last=None), False, False),  # no room was left for scheduled rows
    ],
)
def test_scheduled_rows_are_covered_to_the_last_one_or_the_end(
    read: Scan, covers_early: bool, covers_late: bool
) -> None:
    assert (read.covers_scheduled(EARLY), read.covers_scheduled(LATE)) == (covers_early, covers_late)
