"""The entries that were delivered to this consumer, and how long they are its own: later, another may claim them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from dispatcher.client.group import Group
from dispatcher.client.shard import Shard
from dispatcher.client.steps import Entry, Steps


class NotOurs(Exception):
    """Another consumer may have the delivered entries by now: it claimed them, or we released them at a stop."""


class Deliveries:
    """Those that wait, and until when one is ours: for `claim_idle` from its delivery, and again from each claim."""

    def __init__(self, group: Group, shards: Mapping[str, Shard], clock: Callable[[], float]) -> None:
        self.waiting: deque[Entry] = deque()  # delivered, their function not yet called
        self._group = group
        self._shards = shards
        self._clock = clock

    def held(self, entry: Entry) -> bool:
        """Whether no other consumer can have claimed the entry yet."""
        return self._clock() - entry.since < self._group.claim_idle_millis / 1000

    def keep(self, *begun: Entry) -> Steps:
        """Claim these entries again, and those that wait, once half of claim_idle is over.

        Raises NotOurs when claim_idle is over for one of `begun`; where none is given, for one of those that wait.
        """
        if not all(self.held(entry) for entry in begun or self.waiting):
            raise NotOurs
        half_s, now = self._group.claim_idle_millis / 2000, self._clock()
        old = [entry for entry in (*begun, *self.waiting) if now - entry.since > half_s and self.held(entry)]
        for shard, entries in self._by_shard(old):
            yield shard.call("xclaim", self._group.consumer, 0, [entry.id for entry in entries], justid=True)
            for entry in entries:
                entry.since = self._clock()

    def release(self, entries: Iterable[Entry], deliveries: int) -> Steps:
        """Let any other consumer claim the entries at once, as if they had not been delivered to this one; how many of
        them are not in the stream any more.
        """
        idle, trimmed = self._group.claim_idle_millis, 0
        for shard, held in self._by_shard([entry for entry in entries if self.held(entry)]):
            trimmed += yield from shard.give_back([entry.id for entry in held], idle=idle, retrycount=deliveries)
        return trimmed

    def _by_shard(self, entries: Iterable[Entry]) -> list[tuple[Shard, list[Entry]]]:
        by_key: dict[str, list[Entry]] = {}
        for entry in entries:
            by_key.setdefault(entry.key, []).append(entry)
        return [(self._shards[key], of_key) for key, of_key in by_key.items()]
