"""What a reader does next that keeps the order: the events of an aggregate one after the other, as they were published.

Several times a second: look who holds which shard, keep our own, take or give up some (dispatcher.client.leases).
Of a shard that was taken: first all that is pending, of whichever consumer, by id; then new entries. Each waits in the
line of its aggregate (dispatcher.client.lines); one that failed holds its line. Before each begins Redis must have said
within SURE_S that the shard is ours still.

After an error of a call nobody knows what Redis has delivered to us: what waits is forgotten, and found as pending.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from dispatcher.client.group import Group
from dispatcher.client.lease import LeaseLost
from dispatcher.client.leases import FENCED, PENDING, READ, LeasedShard, Verb, ask, pairs_of, run
from dispatcher.client.lines import Line, Lines, Queued
from dispatcher.client.reading import Reader
from dispatcher.client.shares import Shares
from dispatcher.client.steps import (
    AwaitEntry,
    Call,
    EndTurn,
    Entry,
    Handle,
    Join,
    Steps,
    TakeTurn,
    Wait,
    text,
)
from dispatcher.client.taking import OF_REDIS, OnError
from dispatcher.handlers.outages import Outages

VISIT_S = 0.3  # between two looks at the leases; a third of a lease, if that is less
SURE_S = 0.05  # so long an answer of Redis holds that a shard is ours
BEHIND_S = 0.02  # between two looks for new entries, while others wait for one in hand
PAGE = 200  # pending entries of one look
WAITING_MOST = 100_000  # entries of all shards that wait; what is more is left in the stream
WAITING_LEAST = 1_000  # of one shard

log = logging.getLogger("dispatcher.client")


class OrderedReader(Reader):
    """The steps of a reader that keeps the order. `shares`: what all readers of this consumer know of the leases."""

    def __init__(
        self,
        group: Group,
        outages: Outages,
        on_error: OnError | None,
        has_store: bool,
        keys: Sequence[str],
        shares: Shares,
        clock: Callable[[], float] = time.monotonic,
        attempts: Callable[[str], int | None] = lambda event_type: None,
    ) -> None:
        super().__init__(group, outages, on_error, has_store, clock, attempts)
        self._shards = self._leased = {key: LeasedShard(key, group, clock) for key in keys}
        self._name = keys[0]
        self._shares = shares
        self._lines = Lines(group.count)
        self._in_hand: dict[str, dict[str, Queued]] = {key: {} for key in keys}  # of each shard, by id
        self._waiting_most = max(WAITING_LEAST, WAITING_MOST // group.shards)
        self._visit_at = 0.0  # when to look at the leases
        self._read_at = 0.0  # when to look for new entries although others wait for one in hand
        self._has_turn = True  # whether it got one when it last asked
        self._full: set[str] = set()  # shards that are read no further for now

    def _turn(self) -> Steps:
        if self.failed:
            raise self.failed.pop(0)
        if self._clock() >= self._visit_at:
            yield from self._visit()
        for shard in self._to_look_through():
            yield from self._look_for_pending(shard)
        if not any(shard.token and not shard.leaving for shard in self._leased.values()):
            return (yield from self._wait())
        self._has_turn = yield TakeTurn(self._until(self._visit_at))
        if not self._has_turn or self.stopping:
            return (yield EndTurn())
        entry = self._lines.next(self._clock())
        if entry is None and self._clock() >= self._read_at:
            yield from self._read_new()
            if (entry := self._lines.next(self._clock())) is None and self._lines.is_behind:
                self._read_at = self._clock() + BEHIND_S
        if entry is not None:
            return (yield Handle(self._handle_next(entry)))
        yield EndTurn()
        if not self._to_look_through():
            yield from self._wait()

    # Leases

    def _visit(self) -> Steps:
        """Look at all leases: keep ours, give up those that are too many, take what is free and our share."""
        now = self._clock()
        self._visit_at = now + min(VISIT_S, self._group.claim_idle_ms / 3000)
        stuck = self._shares.is_stuck(now)
        if stuck and not self._has_turn:  # all turns are: what waits here is for others
            for shard in self._held():
                self._leave_shard(shard)
        try:
            yield from self._ask({shard: self._verb(shard) for shard in self._leased.values()}, present=not stuck)
            if stuck:
                return
            for shard in sorted(self._held(), key=lambda each: len(self._in_hand[each.key])):
                if not shard.leaving and self._shares.must_leave(shard.key):
                    self._leave_shard(shard)
            chosen = [shard for shard in self._leased.values() if self._may_take(shard)]
            if chosen:
                takes: dict[LeasedShard, Verb] = dict.fromkeys(chosen, "take")
                verbs = {shard: takes.get(shard, self._verb(shard)) for shard in self._leased.values()}
                yield from self._ask(verbs, present=True)
        except OF_REDIS:
            self._shares.forget(self._name, self._leased)
            raise
        for shard in self._held():
            yield from shard.names.tidy()

    def _ask(self, verbs: Mapping[LeasedShard, Verb], *, present: bool) -> Steps:
        asked = self._clock()
        for shard, verb in verbs.items():
            if verb == "drop":
                with contextlib.suppress(LeaseLost):
                    yield from self._uncount(shard, shard.uncounted, 0)
        lasts = {shard.key: self._lasts_ms(shard, asked) for shard in verbs}
        members, found = yield from ask(self._group, verbs, lasts, self._group.claim_idle_ms if present else 0)
        for shard, verb in verbs.items():
            lease = found[shard.key]
            shard.free = not lease.holder
            if lease.is_mine:
                if verb == "take":
                    shard.taken(lease.token)
                    log.info("begins to read %s", shard.key)
                self._sure(shard, asked)
            elif shard.token:
                self._lost(shard, given_up=verb == "drop")
        mine = {shard.key: self._group.consumer for shard in self._held()}
        self._shares.note(self._name, members, {key: lease.holder for key, lease in found.items()} | mine)

    def _verb(self, shard: LeasedShard) -> Verb:
        if not shard.token:
            return "look"
        return "drop" if shard.leaving and not self._in_hand[shard.key] else "keep"

    def _may_take(self, shard: LeasedShard) -> bool:
        idle = not shard.token and not self._in_hand[shard.key]  # else its handler is at work on an event of it still
        return idle and shard.free and self._shares.may_take(shard.key)

    def _held(self) -> list[LeasedShard]:
        return [shard for shard in self._leased.values() if shard.token]

    def _leave_shard(self, shard: LeasedShard) -> None:
        """Begin no more of it; it is given up when nothing of it is in hand."""
        if not shard.leaving:
            shard.leaving = True
            shard.uncounted = self._lines.new_ones(shard.key)
            self._lines.drop(shard.key, failed=True)
            self._visit_at = self._clock()

    def _lost(self, shard: LeasedShard, *, given_up: bool = False) -> None:
        if not given_up:
            log.warning("another consumer may read %s now: this one was too slow, or Redis lost data", shard.key)
        shard.lost()
        self._lines.drop(shard.key, failed=True)

    def _lasts_ms(self, shard: LeasedShard, now: float) -> int:
        """How long a lease may last: claim_idle_ms from the begin of its oldest entry in hand, which may be stuck."""
        oldest = min((each.began for each in self._in_hand[shard.key].values()), default=now)
        return max(0, self._group.claim_idle_ms - int((now - oldest) * 1000))

    def _sure(self, shard: LeasedShard, asked: float) -> None:
        shard.sure_until = asked + min(SURE_S, self._lasts_ms(shard, asked) / 1000)

    def _fenced(self, shard: LeasedShard, *command: object) -> Steps:
        """Do it, if the shard is ours. Its answer. Raises LeaseLost."""
        asked, token = self._clock(), shard.token
        if not token:
            raise LeaseLost
        keys, lasts_ms = [shard.lease, shard.key], self._lasts_ms(shard, asked)
        answer = yield from run(FENCED, keys, self._group.consumer, token, lasts_ms, *command)
        if not answer[0]:
            if shard.token == token:
                self._lost(shard)
            raise LeaseLost
        self._sure(shard, asked)
        return answer[1] if len(answer) > 1 else None

    def _uncount(self, shard: LeasedShard, ids: Sequence[str], deliveries: int) -> Steps:
        """Say how often these entries were delivered: those that were not begun, less often than Redis has counted."""
        for first in range(0, len(ids), PAGE):
            command = ("XCLAIM", shard.key, self._group.group, self._group.consumer, 0, *ids[first : first + PAGE])
            yield from self._fenced(shard, *command, "RETRYCOUNT", deliveries, "JUSTID")

    # What waits

    def _has_room(self, shard: LeasedShard) -> bool:
        most = self._waiting_most // 2 if shard.key in self._full else self._waiting_most
        if self._lines.count(shard.key) < most:
            self._full.discard(shard.key)
            return True
        if shard.key not in self._full:
            self._full.add(shard.key)
            log.warning("%d entries of %s wait behind others: it is read no further for now", most, shard.key)
        return False

    def _to_look_through(self) -> list[LeasedShard]:
        ours = [shard for shard in self._held() if not shard.leaving and shard.pending_from is not None]
        return [shard for shard in ours if self._has_room(shard)]

    def _look_for_pending(self, shard: LeasedShard) -> Steps:
        """One page of what was delivered and not acknowledged, to us or whoever read the shard before."""
        begin, looks = shard.pending_from, shard.looks
        page = yield from run(PENDING, [shard.key], self._group.group, begin, PAGE)
        if shard.looks != looks or not shard.token:
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
            with contextlib.suppress(LeaseLost):
                yield from self._fenced(shard, "XACK", shard.key, self._group.group, *trimmed)
                self._say_trimmed(len(trimmed))

    def _readable(self) -> list[LeasedShard]:
        ours = [shard for shard in self._held() if not shard.leaving and shard.pending_from is None]
        return [shard for shard in ours if self._has_room(shard)]

    def _read_new(self) -> Steps:
        if not (shards := self._readable()):
            return
        looks = [shard.looks for shard in shards]
        keys = [key for shard in shards for key in (shard.lease, shard.key)]
        count = max(1, self._group.count // len(shards))
        tokens = [shard.token for shard in shards]
        answers = yield from run(READ, keys, self._group.consumer, self._group.group, count, *tokens)
        for shard, token, before, (is_ours, entries, last) in zip(shards, tokens, looks, answers, strict=True):
            if shard.token == token and not is_ours:
                self._lost(shard)
            elif shard.token == token and shard.looks == before:  # else all of it is pending, and will be found
                for entry_id, flat in entries:
                    fields = pairs_of(flat)
                    line = line_of(shard.key, fields.get(b"aggregate_type", b""), fields.get(b"aggregate_id", b""))
                    self._lines.add(Queued(text(entry_id), line, 1, is_new=True, fields=fields))
                shard.last = text(last)

    def _wait(self) -> Steps:
        """Until there is something new, or one in hand is done, or the next look."""
        seconds = min(self._until(self._visit_at), self._group.block_ms / 1000)
        if (due := self._lines.next_due) is not None:
            seconds = min(seconds, self._until(due))
        working = any(self._in_hand.values())
        if working:
            seconds = min(seconds, self._group.retry_ms / 1000)  # it may fail, and is due again then
        if self._lines.is_behind:
            yield AwaitEntry(min(seconds, BEHIND_S))
        elif shards := self._readable():
            ids = {shard.key: shard.last for shard in shards}
            yield Call("xread", (ids,), {"count": 1, "block": max(1, int(seconds * 1000))})
        else:
            yield AwaitEntry(seconds) if working else Wait(seconds)

    def _until(self, moment: float) -> float:
        return max(0.001, moment - self._clock())

    def _doubt(self) -> None:
        for shard in self._leased.values():
            self._look_again(shard)

    def _look_again(self, shard: LeasedShard) -> None:
        """Look anew for what is pending."""
        shard.pending_from = "-"
        shard.looks += 1
        self._lines.drop(shard.key, failed=False)

    # One entry

    def _handle_next(self, queued: Queued) -> Steps:
        """Begin one entry, and settle it; leave it when another consumer may have the shard."""
        key = queued.line.key
        shard = self._leased[key]
        self._in_hand[key][queued.id] = queued
        self._works(queued)
        try:
            if (entry := (yield from self._begin(shard, queued))) is not None:
                yield from self._take(entry)
        except LeaseLost:
            pass
        except BaseException:
            self._look_again(shard)  # or the next one of the aggregate would begin without it
            raise
        finally:
            del self._in_hand[key][queued.id]
            self._shares.end((key, queued.id))
            self._lines.end(queued.line)
            if shard.leaving:
                self._visit_at = self._clock()

    def _works(self, queued: Queued) -> None:
        queued.began = self._clock()
        self._shares.begin((queued.line.key, queued.id), queued.began)

    def _begin(self, shard: LeasedShard, queued: Queued) -> Steps:
        """The entry, whose delivery is counted now, and which is ours. None: it is gone. Raises LeaseLost."""
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
        self._works(self._in_hand[entry.key][entry.id])  # its handler has ended, and is called again
        yield from self._fenced(self._leased[entry.key])

    def _give_back(self, entry: Entry) -> Steps:
        yield from self._uncount(self._leased[entry.key], [entry.id], entry.deliveries - 1)

    def _done(self, entry: Entry) -> Steps:
        yield from self._fenced(self._leased[entry.key], "XACK", entry.key, self._group.group, entry.id)

    def _put_away(self, entry: Entry, reason: str) -> Steps:
        yield from self._fenced(self._leased[entry.key])
        yield from super()._put_away(entry, reason)

    def _again(self, entry: Entry, delay_ms: int, *, free: bool) -> Steps:
        """It is the first of its line again after the pause; the others of its aggregate wait for that."""
        shard, queued = self._leased[entry.key], self._in_hand[entry.key][entry.id]
        yield from self._uncount(shard, [entry.id], entry.deliveries - free)
        queued.deliveries = entry.deliveries + (not free)
        queued.is_new = False
        if not shard.leaving:
            self._lines.hold(queued, self._clock() + delay_ms / 1000)

    def _leave(self) -> Steps:
        """Give back what was not begun, and the leases; delete our name from the group."""
        for shard in self._held():
            self._leave_shard(shard)
        yield Join()
        yield from self._ask({shard: self._verb(shard) for shard in self._leased.values()}, present=False)
        for shard in self._leased.values():
            yield from shard.names.sign_off()


def line_of(key: str, aggregate_type: bytes, aggregate_id: bytes) -> Line:
    """The line of an entry: whatever stands there, it is none of another aggregate."""
    return Line(key, aggregate_type.decode(errors="backslashreplace"), aggregate_id.decode(errors="backslashreplace"))
