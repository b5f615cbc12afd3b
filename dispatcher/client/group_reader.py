"""What a reader does next that keeps no order among the events.

Acknowledge finished entries; claim (XAUTOCLAIM) abandoned ones and those whose retry is due, one at a time, so that an
entry that kills its process costs no other entry a delivery; read new ones. Claimed and new entries alternate, or a few
that are slow to fail would hold up all new ones.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from dispatcher.client.deliveries import Deliveries, NotOurs
from dispatcher.client.entry_taker import OnError
from dispatcher.client.group import Group
from dispatcher.client.reader import Reader
from dispatcher.client.shard import Shard
from dispatcher.client.steps import Call, Entry, Handle, Join, ReturnPermit, Steps, TakePermit, pages_of, sizes_of, text
from dispatcher.core.counted import counted
from dispatcher.core.page_size import PAGE_BYTES, PageSize
from dispatcher.handlers.outages import Outages

log = logging.getLogger("dispatcher.client")


class GroupReader(Reader):
    """The steps of a reader that keeps no order among the events."""

    def __init__(
        self,
        group: Group,
        outages: Outages,
        on_error: OnError | None,
        has_store: bool,
        keys: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        max_deliveries: Callable[[str], int | None] = lambda event_type: None,
    ) -> None:
        super().__init__(group, outages, on_error, has_store, clock, max_deliveries)
        self._shards = {key: Shard(key, group, clock) for key in keys or group.keys}
        self._due = next(iter(self._shards.values()))  # whose search for abandoned entries comes first
        self._deliveries = Deliveries(group, self._shards, clock)
        self._size = PageSize(group.count, PAGE_BYTES * len(self._shards) // len(group.keys))  # readers share the bytes
        self._new_until = 0.0  # until then new entries are read, even if abandoned ones can be claimed

    def _round(self) -> Steps:
        if self.failed:
            raise self.failed.pop(0)
        yield from self._acknowledge()
        now = self._clock()
        if now >= self._due.claim_at and now >= self._new_until:
            yield from self._with_permit(self._claim_next)
        elif self._deliveries.waiting:
            yield from self._with_permit(self._work_off)
        else:
            yield from self._read_new()
            if not self._deliveries.waiting:
                self._new_until = 0.0

    def _read_new(self) -> Steps:
        until_claim_ms = max(1, int((self._due.claim_at - self._clock()) * 1000))
        group = self._group
        options = {
            "count": max(1, self._size.count // len(self._shards)),  # of each key
            "block": min(group.block_millis, until_claim_ms),
        }
        reply = yield Call("xreadgroup", (group.group, group.consumer, dict.fromkeys(self._shards, ">")), options)
        now = self._clock()
        pages = pages_of(reply)
        self._size.note([size for _, page in pages for size in sizes_of(page)])
        for key, page in pages:
            self._deliveries.waiting.extend(Entry(text(entry_id), fields, 1, key, now) for entry_id, fields in page)

    def _with_permit(self, work: Callable[[], Steps]) -> Steps:
        """Do it with a permit; while we wait for one, what was delivered to us stays ours."""
        try:
            while not (yield TakePermit(self._group.claim_idle_millis / 3000)):
                yield from self._deliveries.keep()
            if not self.stopping:
                yield from work()
        except NotOurs:
            if self._deliveries.waiting and not self.stopping:
                waited = counted(len(self._deliveries.waiting), "entry")
                log.warning("%s waited too long behind a slow one; left to be claimed", waited)
                self._deliveries.waiting.clear()
        yield ReturnPermit()

    def _work_off(self) -> Steps:
        yield from self._deliveries.keep()
        yield Handle(self._carry_out(self._deliveries.waiting.popleft()))

    def _carry_out(self, entry: Entry) -> Steps:
        """Take one entry; leave it when it may belong to another consumer."""
        with contextlib.suppress(NotOurs):
            yield from self._take(entry)

    def _claim_next(self) -> Steps:
        """One entry that nobody has acknowledged for claim_idle, or the end of the search for now."""
        shard, began = self._due, self._clock()
        (_, entries, *rest), begin = yield from shard.claim()
        self._due = min(self._shards.values(), key=lambda each: each.claim_at)
        now = self._clock()
        if shard.cursor == "0-0":
            yield from shard.reclaim_if_clock_went_back()
            yield from shard.names.delete_idle()
        trimmed = len(rest[0]) if rest else 0
        for entry_id, fields in entries:
            if fields is None:
                waiting = {entry.id for entry in self._deliveries.waiting if entry.key == shard.key}
                trimmed += yield from shard.drop_trimmed(begin, shard.cursor, waiting)
                continue
            found = yield shard.call("xpending_range", min=entry_id, max=entry_id, count=1)
            deliveries = int(found[0]["times_delivered"]) if found else 1
            yield Handle(self._carry_out(Entry(text(entry_id), fields, deliveries, shard.key, now)))
        after = self._clock()
        self._new_until = after + (after - began)
        self._say_trimmed(trimmed)

    def _acknowledge(self) -> Steps:
        for shard in self._shards.values():
            if shard.done:
                yield from shard.acknowledge()

    def _keep(self, entry: Entry) -> Steps:
        yield from self._deliveries.keep(entry)

    def _release(self, entry: Entry) -> Steps:
        self._say_trimmed((yield from self._deliveries.release([entry], entry.deliveries - 1)))

    def _done(self, entry: Entry) -> Steps:
        self._shards[entry.key].done.append(entry.id)
        yield from self._shards[entry.key].acknowledge()

    def _again(self, entry: Entry, delay_ms: int, *, counted: bool) -> Steps:
        """Let the entry be claimed after the pause, by any consumer; that counts as its next delivery."""
        if self._deliveries.held(entry):  # else another consumer may have it, and would lose it to us
            options = {} if counted else {"retrycount": entry.deliveries - 1}
            idle = max(0, self._group.claim_idle_millis - delay_ms)
            shard = self._shards[entry.key]
            self._say_trimmed((yield from shard.give_back([entry.id], idle=idle, **options)))
            shard.retry_in(delay_ms, entry.id, entry.deliveries - (not counted))
            self._due = min(self._due, shard, key=lambda each: each.claim_at)

    def _leave(self) -> Steps:
        """Release what was not begun, and delete our name from the group: each restart would leave one behind."""
        yield Join()
        yield from self._acknowledge()
        self._say_trimmed((yield from self._deliveries.release(self._deliveries.waiting, 0)))
        self._deliveries.waiting.clear()
        for shard in self._shards.values():
            yield from shard.names.deregister()
