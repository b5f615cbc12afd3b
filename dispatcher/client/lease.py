"""The entries that were delivered to this consumer, and how long they are its own: later, another may claim them."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from dispatcher.client.group import Group
from dispatcher.client.steps import Entry, Steps, call


class LeaseLost(Exception):
    """Another consumer may have claimed the delivered entries by now; or a stop came first."""


class Lease:
    """Entries are ours for `claim_idle_ms` from their delivery, and again from each time they are claimed."""

    def __init__(self, group: Group, clock: Callable[[], float]) -> None:
        self.waiting: deque[Entry] = deque()  # delivered, their handler not yet called
        self._group = group
        self._clock = clock
        self._began = 0.0

    def begin(self) -> None:
        """Entries were delivered just now."""
        self._began = self._clock()

    def held(self) -> bool:
        """Whether no other consumer can have claimed the entries yet."""
        return self._clock() - self._began < self._group.claim_idle_ms / 1000

    def keep(self, begun: Iterable[Entry]) -> Steps:
        """Claim the entries again when half of claim_idle_ms is over. Raises LeaseLost when all of it is."""
        if not self.held():
            raise LeaseLost
        if self._clock() - self._began > self._group.claim_idle_ms / 2000:
            ids = [entry.id for entry in (*begun, *self.waiting)]
            yield call(self._group, "xclaim", self._group.consumer, 0, ids, justid=True)
            self.begin()

    def give_back(self, entries: Sequence[Entry], deliveries: int) -> Steps:
        """Let any other consumer claim the entries at once, as if they had not been delivered to this one."""
        if entries and self.held():
            ids = [entry.id for entry in entries]
            group = self._group
            options = {"idle": group.claim_idle_ms, "retrycount": deliveries, "justid": True}
            yield call(group, "xclaim", group.consumer, 0, ids, **options)
