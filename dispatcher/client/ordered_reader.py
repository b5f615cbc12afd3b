"""What a reader does next that keeps the order: the events of an aggregate one after the other, as they were published.

Several times a second: look who holds which shard, keep our own, take or give up some (dispatcher.client.shard_leases).
Of a shard that was taken: first all that is pending, of whichever consumer, by id; then new entries. Each waits in the
line of its aggregate (dispatcher.client.aggregate_lines); one that failed holds its line. Before each begins Redis
must have said that the shard is ours still, at most SURE_S ago (lease_keeper.py).

After an error of a call nobody knows what Redis has delivered to us: what waits is forgotten, and found as pending.
"""

import contextlib
import logging

from dispatcher.client.aggregate_lines import Line, Queued
from dispatcher.client.deliveries import NotOurs
from dispatcher.client.lease_keeper import LeaseKeeper
from dispatcher.client.received import Received
from dispatcher.client.scripts import PENDING, READ, pairs_of, run
from dispatcher.client.shard_leases import LeasedShard
from dispatcher.client.steps import (
    AwaitEntry,
    Call,
    Entry,
    Handle,
    Join,
    ReturnPermit,
    Sleep,
    Steps,
    TakePermit,
    text,
)
from dispatcher.core.page_size import size_of

BEHIND_S = 0.02  # between two looks for new entries, while others wait for one in hand
PAGE = 200  # pending entries of one look
WAITING_MOST = 100_000  # entries that wait, divided among all shards; what is more is left in the stream
WAITING_LEAST = 1_000  # of one shard, however many shards there are

log = logging.getLogger("dispatcher.client")


class OrderedReader(LeaseKeeper):
    """The steps of a reader that keeps the order. `shares`: what all readers of this consumer know of the leases."""

    _read_at = 0.0  # when to look for new entries although others wait for one in hand

    def steps(self) -> Steps:
        """As of every reader; a run() that was cancelled may have left entries in hand that no task had begun."""
        for queued in [each for of_shard in self._in_hand.values() for each in of_shard.values()]:
            self._ended(queued)
            self._search_again(self._leased[queued.line.key])
        yield from super().steps()

    def _round(self) -> Steps:
        if self.failed:
            raise self.failed.pop(0)
        if self._clock() >= self._check_leases_at:
            yield from self._check_leases()
        for shard in self._to_search():
            yield from self._search_pending(shard)
        if not any(shard.token and not shard.leaving for shard in self._leased.values()):
            return (yield from self._wait())
        self._has_permit = yield TakePermit(self._until(self._check_leases_at))
        if not self._has_permit or self.stopping:
            return (yield ReturnPermit())
        entry = self._lines.next(self._clock())
        if entry is None and self._clock() >= self._read_at:
            yield from self._read_new()
            if (entry := self._lines.next(self._clock())) is None and self._lines.is_behind:
                self._read_at = self._clock() + BEHIND_S
        if entry is not None:
            # At once: the thread that takes it may begin late, and its shard is not given up under it meanwhile.
            self._in_hand[entry.line.key][entry.id] = entry
            self._works(entry)
            return (yield Handle(self._handle_next(entry)))
        yield ReturnPermit()
        if not self._to_search():
            yield from self._wait()

    # What waits

    def _has_room(self, shard: LeasedShard) -> bool:
        most = max(WAITING_LEAST, WAITING_MOST // self._group.shards)
        waiting = self._lines.count(shard.key)
        if waiting >= most and not shard.full:
            shard.full = True
            log.warning("%d entries of %s wait behind others: it is read no further for now", waiting, shard.key)
        elif waiting < most // 2:
            shard.full = False
        return not shard.full

    def _to_search(self) -> list[LeasedShard]:
        ours = [shard for shard in self._held() if not shard.leaving and shard.pending_from is not None]
        return [shard for shard in ours if self._has_room(shard)]

    def _search_pending(self, shard: LeasedShard) -> Steps:
        """One page of what was delivered and not acknowledged, to us or whoever read the shard before."""
        begin, searches = shard.pending_from, shard.searches
        page = yield from run(PENDING, [shard.key], self._group.group, begin, PAGE)
        if shard.searches != searches or not shard.token:
            return  # it begins anew
        trimmed = []
        for pending, deliveries, *aggregate in page:
            entry_id = text(pending)
            if not aggregate:
                trimmed.append(entry_id)
            elif not self._lines.knows(entry_id, line := line_of(shard.key, *aggregate)):
                self._lines.add(Queued(entry_id, line, int(deliveries) + 1, is_new=False))
        shard.pending_from = f"({text(page[-1][0])}" if len(page) == PAGE else None
        if trimmed:
            with contextlib.suppress(NotOurs):
                yield from self._fenced(shard, "XACK", shard.key, self._group.group, *trimmed)
                self._say_trimmed(len(trimmed))

    def _readable(self) -> list[LeasedShard]:
        ours = [shard for shard in self._held() if not shard.leaving and shard.pending_from is None]
        return [shard for shard in ours if self._has_room(shard)]

    def _read_new(self) -> Steps:
        if not (shards := self._readable()):
            return
        searches = [shard.searches for shard in shards]
        keys = [key for shard in shards for key in (shard.lease, shard.key)]
        group = self._group
        count = max(1, self._size.count // len(shards))
        tokens = [shard.token for shard in shards]
        answers = yield from run(READ, keys, self._shares.me, group.group, group.consumer, count, *tokens)
        self._size.note([size_of(flat) for _, entries, _ in answers for _, flat in entries])
        for shard, token, before, (is_ours, entries, last) in zip(shards, tokens, searches, answers, strict=True):
            if shard.token == token and not is_ours:
                self._lost(shard)
            elif shard.token == token and shard.searches == before:  # else all of it is pending, and will be found
                for entry_id, flat in entries:
                    fields, size = pairs_of(flat), size_of(flat)
                    line = line_of(shard.key, fields.get(b"aggregate_type", b""), fields.get(b"aggregate_id", b""))
                    self._lines.add(Queued(text(entry_id), line, 1, is_new=True, fields=fields, size=size))
                shard.last = text(last)

    def _wait(self) -> Steps:
        """Until there is something new, or one in hand is done, or the next look."""
        seconds = min(self._until(self._check_leases_at), self._group.block_millis / 1000)
        if (due := self._lines.next_due) is not None:
            seconds = min(seconds, self._until(due))
        working = any(self._in_hand.values())
        if working:
            seconds = min(seconds, self._group.retry_millis / 1000)  # it may fail, and is due again then
        if self._lines.is_behind:
            yield AwaitEntry(min(seconds, BEHIND_S))
        elif shards := self._readable():
            ids = {shard.key: shard.last for shard in shards}
            yield Call("xread", (ids,), {"count": 1, "block": max(1, int(seconds * 1000))})
        else:
            yield AwaitEntry(seconds) if working else Sleep(seconds)

    def _until(self, moment: float) -> float:
        return max(0.001, moment - self._clock())

    def _doubt(self) -> None:
        for shard in self._leased.values():
            self._search_again(shard)

    def _search_again(self, shard: LeasedShard) -> None:
        """Read what is pending from the start again; drop what is queued, which another consumer may have by now."""
        shard.pending_from = "-"
        shard.searches += 1
        self._lines.drop(shard.key, failed=False)

    # One entry

    def _handle_next(self, queued: Queued) -> Steps:
        """Carry out the steps of one entry; leave it when another consumer may have the shard."""
        key = queued.line.key
        shard = self._leased[key]
        try:
            if (entry := (yield from self._begin(shard, queued))) is not None:
                yield from self._take(entry)
        except NotOurs:
            pass
        except BaseException:
            self._search_again(shard)  # or the next one of the aggregate would begin without it
            raise
        finally:
            self._ended(queued)
            if shard.leaving:
                self._check_leases_at = self._clock()

    def _ended(self, queued: Queued) -> None:
        del self._in_hand[queued.line.key][queued.id]
        self._shares.end((queued.line.key, queued.id))
        self._lines.end(queued.line)

    def _works(self, queued: Queued) -> None:
        queued.began = self._clock()
        self._shares.begin((queued.line.key, queued.id), queued.began)

    def _begin(self, shard: LeasedShard, queued: Queued) -> Steps:
        """The entry, whose delivery is counted now, and which is ours. None: it is gone. Raises NotOurs."""
        group, fields = self._group, queued.fields
        if fields is None:
            command = ("XCLAIM", shard.key, group.group, group.consumer, 0, queued.id)
            found = yield from self._fenced(shard, *command, "RETRYCOUNT", queued.deliveries)
            if not found or not found[0]:
                yield from self._fenced(shard, "XACK", shard.key, group.group, queued.id)
                is_there = yield Call("xrange", (shard.key, queued.id, queued.id))  # it was acknowledged by hand
                self._say_trimmed(0 if is_there else 1)
                return None
            fields = pairs_of(found[0][1])
        elif self._clock() >= shard.sure_until:
            yield from self._fenced(shard)
        return Entry(queued.id, fields, queued.deliveries, shard.key, self._clock(), shard.token)

    def _keep(self, entry: Entry) -> Steps:
        self._works(self._in_hand[entry.key][entry.id])  # its function has ended, and is called again
        yield from self._fenced(self._leased[entry.key])

    def _release(self, entry: Entry) -> Steps:
        self._say_trimmed((yield from self._set_deliveries(self._leased[entry.key], [entry.id], entry.deliveries - 1)))

    def _done(self, entry: Entry) -> Steps:
        yield from self._fenced(self._leased[entry.key], "XACK", entry.key, self._group.group, entry.id)

    def _put_away(self, entry: Entry, event: Received | None, reason: str) -> Steps:
        yield from self._fenced(self._leased[entry.key])
        yield from super()._put_away(entry, event, reason)

    def _again(self, entry: Entry, delay_ms: int, *, counted: bool) -> Steps:
        """It is the first of its line again after the pause; the others of its aggregate wait for that."""
        shard, queued = self._leased[entry.key], self._in_hand[entry.key][entry.id]
        yield from self._set_deliveries(shard, [entry.id], entry.deliveries - (not counted))
        queued.deliveries = entry.deliveries + counted
        queued.is_new = False
        if not shard.leaving:
            self._lines.hold(queued, self._clock() + delay_ms / 1000)

    def _leave(self) -> Steps:
        """Release what was not begun, and the leases; delete our name from the group."""
        for shard in self._held():
            self._leave_shard(shard)
        yield Join()
        yield from self._ask({shard: self._verb(shard) for shard in self._leased.values()}, present=False)
        for shard in self._leased.values():
            yield from shard.names.deregister()


def line_of(key: str, aggregate_type: bytes, aggregate_id: bytes) -> Line:
    """The line of an entry: whatever stands there, it is none of another aggregate."""
    return Line(key, aggregate_type.decode(errors="backslashreplace"), aggregate_id.decode(errors="backslashreplace"))
