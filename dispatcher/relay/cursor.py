"""Where the next claim begins: after the last row of a full batch, at the start, or (filtered) a few seconds back."""

from dispatcher.core.pacing import FilteredScan, rest_after
from dispatcher.core.row import Batch
from dispatcher.stages.claim import FROM_THE_START, ClaimKey, last_key

# Rows that were committed late have older keys: once a second a claim begins at the start. Beside an open snapshot that
# scan passes all rows that were settled since, so it may take at most a twentieth of the time.
START_AGAIN_S = 1.0
REST = 20.0
START_AGAIN_AT_MOST_S = 10.0


class ClaimCursor:
    """`filtered`: claims pass over rows of other event types, which may be a long way. Written by its claimer."""

    def __init__(self, *, filtered: bool) -> None:
        self._filter = FilteredScan() if filtered else None
        self._after: ClaimKey = FROM_THE_START
        self._from_start_at = 0.0
        self._scan_s = 0.0  # how long the last claim from the start took
        self._since_s: float | None = None

    def start(self, now: float) -> tuple[ClaimKey, float | None]:
        """The key to begin after, and how many seconds back to look (None: to the start). `now`: monotonic seconds."""
        if self._filter is None:
            rest_s = rest_after(self._scan_s, REST, at_most_s=START_AGAIN_AT_MOST_S)
        else:
            rest_s = self._filter.rest_s
        if self._after is not FROM_THE_START and now - self._from_start_at > max(START_AGAIN_S, rest_s):
            self._after = FROM_THE_START
        self._since_s = None
        if self._after is FROM_THE_START:
            self._from_start_at = now
            if self._filter is not None:
                self._since_s = self._filter.since_s(now)
        return self._after, self._since_s

    def advance(self, batch: Batch, *, full: bool) -> None:
        """Note a claim's rows. `full`: there were as many as asked for, so more may follow."""
        self._note_scan(batch, to_the_end=not full)
        self._after = last_key(batch) if full else FROM_THE_START

    def found_nothing(self, batch: Batch) -> bool:
        """Note an empty claim. False: it began after the start, where rows committed late may be; claim again."""
        self._note_scan(batch, to_the_end=True)
        at_the_start = self._after is FROM_THE_START
        self._after = FROM_THE_START
        return at_the_start

    def reset(self) -> None:
        """Look at everything next: old rows were put back. Without a filter a claim after a short one does so."""
        if self._filter is not None:
            self._filter.reset()
            self._after = FROM_THE_START

    def _note_scan(self, batch: Batch, *, to_the_end: bool) -> None:
        if self._after is FROM_THE_START and self._since_s is None:
            began = self._from_start_at
            self._scan_s = batch.claimed_at - began
            if self._filter is not None:
                self._filter.note_scan(began, self._scan_s, to_the_end=to_the_end)
