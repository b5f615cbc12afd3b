"""One key of the stream, as a reader of the group reads it: its claims, its acknowledgements, its names."""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import redis

from dispatcher.client.consumer_names import Names
from dispatcher.client.group import Group
from dispatcher.client.steps import Call, Steps, text

OFTEN_S, SELDOM_S = 0.05, 5.0  # between two searches for abandoned entries
LATE_S = 1.0  # an entry that could be claimed so long ago, and was not, will not be: see reclaim_if_clock_went_back()


class Shard:
    """One key. The steps of its reader write all of this; one key never waits for another."""

    def __init__(self, key: str, group: Group, clock: Callable[[], float]) -> None:
        self.key = key
        self.done: list[str] = []  # handled, not acknowledged
        self.claim_at = 0.0  # when to search for abandoned entries
        self.cursor = "0-0"  # where that search goes on
        self.names = Names(self.call, group, clock)
        self._group = group
        self._clock = clock
        self._retries: list[float] = []  # a heap: when what failed here can be claimed again
        self._failed: dict[str, tuple[float, int]] = {}  # the same by its id, and how often it was delivered

    def call(self, method: str, *arguments: Any, **options: Any) -> Call:
        """A Call whose first arguments are the key and the group."""
        return Call(method, (self.key, self._group.group, *arguments), options)

    def create(self, start: str) -> Steps:
        """Make the group, and the key with it. Whether the key was there."""
        for made in (False, True):
            try:
                yield self.call("xgroup_create", id=start, mkstream=made)
            except redis.ResponseError as error:
                if "requires the key to exist" in str(error) and not made:
                    continue
                if not str(error).startswith("BUSYGROUP"):
                    raise
            return not made

    def acknowledge(self) -> Steps:
        """XACK all that is in `done`, in one call; nothing when that is empty."""
        if done := list(self.done):
            yield self.call("xack", *done)
            self.done = [entry_id for entry_id in self.done if entry_id not in done]  # others may have come meanwhile

    def claim(self) -> Steps:
        """One entry that nobody has acknowledged for claim_idle: XAUTOCLAIM's answer, where the search began."""
        begin = self.cursor
        answer = yield self.call(
            "xautoclaim",
            self._group.consumer,
            min_idle_time=self._group.claim_idle_millis,
            start_id=begin,
            count=1,
        )
        self.cursor = text(answer[0])
        for entry_id, _ in answer[1]:
            self._failed.pop(text(entry_id), None)
        now = self._clock()
        if self.cursor != "0-0":
            self.claim_at = now  # after those of other keys, which are due already
            return answer, begin
        while self._retries and self._retries[0] <= now:
            heapq.heappop(self._retries)
        pause_s = min(SELDOM_S, max(OFTEN_S, self._group.claim_idle_millis / 10_000))
        self.claim_at = min([now + pause_s, *self._retries[:1]])
        return answer, begin

    def give_back(self, ids: Sequence[str], **options: Any) -> Steps:
        """Let other consumers claim these entries (XCLAIM); how many are not in the stream any more.

        Redis 7 answers without such a one and forgets that it was pending: no search would find it. The answer lacks
        what somebody acknowledged by hand, too, but that can still be claimed by force.
        """
        consumer = self._group.consumer
        found = yield self.call("xclaim", consumer, 0, ids, justid=True, **options)
        missing = set(ids) - {text(each) for each in found}
        if not missing:
            return 0
        if there := (yield self.call("xclaim", consumer, 0, sorted(missing), justid=True, force=True)):
            yield self.call("xack", *there)
        return len(missing) - len(there)

    def retry_in(self, delay_ms: int, entry_id: str, deliveries: int) -> None:
        """Search for an entry then, which failed here."""
        due = self._clock() + (delay_ms + 1) / 1000  # Redis counts whole milliseconds
        heapq.heappush(self._retries, due)
        self._failed[entry_id] = due, deliveries
        self.claim_at = min(self.claim_at, self._retries[0])

    def reclaim_if_clock_went_back(self) -> Steps:
        """At the end of a search: let what failed here and was not found be claimed at once, unless another has it.

        Redis counts an idle time by its clock: if that went back by an hour, the entry would wait for an hour more.
        """
        now, group = self._clock(), self._group
        for entry_id, (due, deliveries) in list(self._failed.items()):
            if now < due + LATE_S:
                continue
            del self._failed[entry_id]
            alone = {"min": entry_id, "max": entry_id, "count": 1, "consumername": group.consumer}
            found = yield self.call("xpending_range", **alone)
            if found and int(found[0]["times_delivered"]) == deliveries:
                idle = group.claim_idle_millis
                yield self.call("xclaim", group.consumer, 0, [entry_id], idle=idle, justid=True)
                self.retry_in(0, entry_id, deliveries)

    def drop_trimmed(self, begin: str, end: str, waiting: set[str]) -> Steps:
        """Acknowledge what is pending for us and not in the stream any more; how many. Redis 7 does it by itself; Redis
        6.2 would let us claim such an entry for ever, and does not say which it is.
        """
        bounds = {"min": begin, "max": "+" if end == "0-0" else end}
        found = yield self.call("xpending_range", **bounds, count=100, consumername=self._group.consumer)
        trimmed = [text(each["message_id"]) for each in found if text(each["message_id"]) not in waiting]
        for entry_id in list(trimmed):
            if (yield Call("xrange", (self.key, entry_id, entry_id))):
                trimmed.remove(entry_id)
        if trimmed:
            yield self.call("xack", *trimmed)
        return len(trimmed)
