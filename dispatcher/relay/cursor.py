"""Where the next claim begins: after the last key of a full batch, at the start of what is due, or just before now."""

from dispatcher.core.pacing import FilteredScan
from dispatcher.core.row import Batch
from dispatcher.stages.claim import FROM_THE_START, ClaimKey, last_key

CURSOR_AGE_S = 1.0  # late commits have older keys: once a second a claim begins from the start ...
# ... but beside an open snapshot it walks past all that was settled since: for a twentieth of the time at most.
REST = 20
CURSOR_AGE_AT_MOST_S = 10.0


class ClaimCursor:
    """`passes_over`: whether claims pass over rows of another share, which may be a long way. Written by who claims."""

    def __init__(self, *, passes_over: bool) -> None:
        self._detour = FilteredScan() if passes_over else None
        self._after: ClaimKey = FROM_THE_START
        self._from_start_at = 0.0
        self._walk_s = 0.0  # how long the last claim from the start took
        self._since_s: float | None = None

    def begin(self, now: float) -> tuple[ClaimKey, float | None]:
        """The key to begin after, and how far back to look (None: to the start). Monotonic seconds."""
        rest_s = min(REST * self._walk_s, CURSOR_AGE_AT_MOST_S) if self._detour is None else self._detour.rest_s
        age_s = max(CURSOR_AGE_S, rest_s)
        if self._after is not FROM_THE_START and now - self._from_start_at > age_s:
            self._after = FROM_THE_START
        self._since_s = None
        if self._after is FROM_THE_START:
            self._from_start_at = now
            if self._detour is not None:
                self._since_s = self._detour.since_s(now)
        return self._after, self._since_s

    def took(self, batch: Batch, full: bool) -> None:
        """The claim is answered."""
        self._walked(batch, to_the_end=not full)
        self._after = last_key(batch) if full else FROM_THE_START

    def found_nothing(self, batch: Batch) -> bool:
        """The claim found nothing. False: late commits may stand before where it began; claim from the start."""
        self._walked(batch, to_the_end=True)
        at_the_start = self._after is FROM_THE_START
        self._after = FROM_THE_START
        return at_the_start

    def forget(self) -> None:
        """Rows that fell due long ago were put back."""
        if self._detour is not None:
            self._detour.forget()
            self._after = FROM_THE_START

    def _walked(self, batch: Batch, *, to_the_end: bool) -> None:
        if self._after is FROM_THE_START and self._since_s is None:
            began = self._from_start_at
            self._walk_s = batch.claimed_at - began
            if self._detour is not None:
                self._detour.walked(began, self._walk_s, to_the_end=to_the_end)
