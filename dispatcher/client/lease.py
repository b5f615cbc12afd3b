"""The entries in hand, and until when they are ours: held too long, another consumer may have them as well."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from dispatcher.client.group import Group
from dispatcher.client.steps import Entry, Steps, call


class LeaseLost(Exception):
    """The entries in hand are so old that another consumer may have them by now; or a stop came first."""


class Lease:
    """Entries are ours for `claim_idle_ms` from their delivery, and again from each time they are claimed."""

    def __init__(self, group: Group, clock: Callable[[], float]) -> None:
        self.waiting: deque[Entry] = deque()  # delivered, not begun
        self._group = group
        self._clock = clock
        self._began = 0.0

    def begin(self) -> None:
        """Entries were delivered just now."""
        self._began = self._clock()

    def held(self) -> bool:
        """Whether what is in hand is still ours only."""
        return self._clock() - self._began < self._group.claim_idle_ms / 1000

    def keep(self, begun: Iterable[Entry]) -> Steps:
        """Claim what is in hand again when half its time is over. Raises LeaseLost when all of it is."""
        if not self.held():
            raise LeaseLost
        if self._clock() - self._began > self._group.claim_idle_ms / 2000:
            ids = [entry.id for entry in (*begun, *self.waiting)]
            yield call(self._group, "xclaim", self._group.consumer, 0, ids, justid=True)
            self.begin()

    def give_back(self, entries: Sequence[Entry], deliveries: int) -> Steps:
        """To be claimed at once by any other, as if it had not been delivered to us."""
        if entries and self.held():
            ids = [entry.id for entry in entries]
            group = self._group
            options = {"idle": group.claim_idle_ms, "retrycount": deliveries, "justid": True}
            yield call(group, "xclaim", group.consumer, 0, ids, **options)
