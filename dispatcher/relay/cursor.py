"""Where the next claim begins: after the last row of a full batch, at the start, or (filtered) a little way back.

It has two positions, one for fresh rows and one for scheduled rows: see claim.sql.
"""

from typing import NamedTuple

from dispatcher.core.pacing import FilteredScan, FreshLimit, rest_after
from dispatcher.core.row import UNSCHEDULED, Batch
from dispatcher.stages.claim import FROM_THE_START, IndexKey, last_index_key

# Rows that were committed late have older keys: once a second a claim begins at the start. Beside an open snapshot this
# scan passes all rows that were settled since. So after it we rest for REST times as long, but at most 10 s.
START_AGAIN_S = 1.0
REST = 20.0
START_AGAIN_AT_MOST_S = 10.0


class ClaimStart(NamedTuple):
    """Where a claim begins. `since_s`: how many seconds back it takes scheduled rows; None: all that are due.

    `fresh_limit`: how many rows may be fresh; None: the claim takes the rows after `after`, fresh rows first.
    """

    fresh_limit: int | None
    fresh_after: IndexKey
    after: IndexKey
    since_s: float | None


class ClaimCursor:
    """`filtered`: claims pass over rows of other event types, which may be a long way. Written by its claimer."""

    def __init__(self, *, filtered: bool) -> None:
        self._filter = FilteredScan() if filtered else None
        self._fresh_limit = FreshLimit()
        self._fresh_after: IndexKey = FROM_THE_START
        self._after: IndexKey = FROM_THE_START
        self._from_start_at = 0.0
        self._scan_s = 0.0  # how long the last claim from the start took
        self._whole = True  # the claim that is under way begins at the start of both, and leaves nothing out

    def start(self, now: float, limit: int) -> ClaimStart:
        """Where the next claim of so many rows begins. `now`: monotonic seconds."""
        if self._filter is None:
            rest_s = rest_after(self._scan_s, REST, at_most_s=START_AGAIN_AT_MOST_S)
        else:
            rest_s = self._filter.rest_s
        if not self._at_the_start and now - self._from_start_at > max(START_AGAIN_S, rest_s):
            self._begin_again()
        self._whole = self._at_the_start
        fresh_limit = self._fresh_limit.limit(limit)
        if self._whole:
            self._from_start_at = now
            if self._filter is not None and (since := self._filter.since(now)) is not None:
                self._whole = False
                return ClaimStart(fresh_limit, IndexKey(UNSCHEDULED, since[0]), FROM_THE_START, since[1])
        if fresh_limit == limit and self._after is FROM_THE_START:
            return ClaimStart(None, FROM_THE_START, self._fresh_after, None)
        return ClaimStart(fresh_limit, self._fresh_after, self._after, None)

    @property
    def wants_highest_id(self) -> bool:
        """Whether the claim that is about to begin is to be told the highest id: see `note_highest`."""
        return self._whole and self._filter is not None and self._filter.wants_highest_id

    def note_highest(self, now: float, row_id: int) -> None:
        """Note the highest id of the table, before the claim begins."""
        if self._filter is not None:
            self._filter.note_highest(now, row_id)

    def advance(self, batch: Batch, limit: int, start: ClaimStart) -> bool:
        """Note a claim's rows. Returns whether more may be due: the claim took as many rows of one kind as it might."""
        fresh = [row for row in batch.rows if row.fresh]
        scheduled = batch.rows[len(fresh) :]  # in the order of next_run_at
        if batch.over_budget:  # more of both kinds may have been released
            limit = len(batch.rows)
        fresh_limit = limit if start.fresh_limit is None else min(start.fresh_limit, limit)
        self._fresh_limit.note(limit, fresh_limit, len(fresh), len(scheduled))
        more_fresh = len(fresh) >= fresh_limit
        room = limit - len(fresh)
        more_scheduled = len(scheduled) >= room
        self._note_scan(batch, to_the_end=not (more_fresh or more_scheduled))
        if fresh or not more_fresh:
            self._fresh_after = last_index_key(batch._replace(rows=fresh)) if more_fresh else FROM_THE_START
        if room:
            self._after = last_index_key(batch) if more_scheduled else FROM_THE_START
        return more_fresh or more_scheduled

    def found_nothing(self, batch: Batch, limit: int, start: ClaimStart) -> bool:
        """Note an empty claim. False: claim again, for the claim did not see all rows.

        It began after the start, where rows that were committed late may lie, or was to take no fresh row.
        """
        fresh_limit = limit if start.fresh_limit is None else start.fresh_limit
        self._fresh_limit.note(limit, fresh_limit, 0, 0)
        self._note_scan(batch, to_the_end=fresh_limit > 0)
        all_seen = self._at_the_start and fresh_limit > 0
        self._begin_again()
        return all_seen

    def reset(self) -> None:
        """Begin the next claim at the start: rows may be due that lie before the cursor.

        Without a filter this does nothing: the claim after one that found few rows begins at the start anyway.
        """
        if self._filter is not None:
            self._filter.reset()
            self._begin_again()

    @property
    def _at_the_start(self) -> bool:
        return self._fresh_after is FROM_THE_START and self._after is FROM_THE_START

    def _begin_again(self) -> None:
        self._fresh_after = self._after = FROM_THE_START

    def _note_scan(self, batch: Batch, *, to_the_end: bool) -> None:
        if self._whole:
            began = self._from_start_at
            self._scan_s = batch.claimed_at - began
            if self._filter is not None:
                self._filter.note_scan(began, self._scan_s, to_the_end=to_the_end)
