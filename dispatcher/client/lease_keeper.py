"""Keeps the leases of a reader: looks who holds which, keeps its own, takes or gives up some, and acts by them only."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from dispatcher.client.aggregate_lines import Lines, Queued
from dispatcher.client.deliveries import NotOurs
from dispatcher.client.entry_taker import OF_REDIS, OnError
from dispatcher.client.group import Group
from dispatcher.client.reader import Reader
from dispatcher.client.scripts import FENCED, run
from dispatcher.client.shard_leases import LeasedShard, Verb, ask
from dispatcher.client.shard_shares import Shares
from dispatcher.client.steps import Call, Steps, text
from dispatcher.core.incarnation import stream_order
from dispatcher.core.page_size import PAGE_BYTES, PageSize
from dispatcher.handlers.outages import Outages

CHECK_LEASES_S = 0.3  # between two looks at the leases; a third of a lease, if that is less
SURE_S = 0.05  # so long an answer of Redis holds that a shard is ours
MANY = 200  # entries of one command
LATE_MS = 1000  # so much longer ago than we took the lease another consumer may have read last

log = logging.getLogger("dispatcher.client")


class LeaseKeeper(Reader):
    """A reader of shards that it has leases of. `shares`: what all readers of this consumer know of the leases."""

    def __init__(
        self,
        group: Group,
        outages: Outages,
        on_error: OnError | None,
        has_store: bool,
        keys: Sequence[str],
        shares: Shares,
        clock: Callable[[], float] = time.monotonic,
        max_deliveries: Callable[[str], int | None] = lambda event_type: None,
    ) -> None:
        super().__init__(group, outages, on_error, has_store, clock, max_deliveries)
        self._shards = self._leased = {key: LeasedShard(key, group, clock) for key in keys}
        self._name = keys[0]
        self._shares = shares
        page_bytes = PAGE_BYTES * len(keys) // len(group.keys)  # the readers of a consumer share the bytes
        self._size = PageSize(group.count, page_bytes)
        self._lines = Lines(page_bytes)
        self._in_hand: dict[str, dict[str, Queued]] = {key: {} for key in keys}  # of each shard, by id
        self._check_leases_at = 0.0  # when to look at the leases
        self._said = set[str]()  # consumers that read beside us without a lease
        self._has_permit = True  # whether it got one when it last asked

    def _check_leases(self) -> Steps:
        """Look at all leases: keep ours, give up those that are too many, take what is free and our share."""
        now = self._clock()
        self._check_leases_at = now + min(CHECK_LEASES_S, self._group.claim_idle_millis / 3000)
        stuck = self._shares.is_stuck(now)
        if stuck and not self._has_permit:  # all permits are taken: what waits here is for others
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
            alone_ms = int((self._clock() - shard.taken_at) * 1000) - LATE_MS
            for name in (yield from shard.names.delete_idle(max(0, alone_ms))):
                self._say_mixed(name, shard.key)

    def _say_mixed(self, name: str, key: str) -> None:
        if name not in self._said:
            self._said.add(name)
            log.error(
                "the consumer %s of the group %s reads %s, of which this one has the lease: the order is not kept. "
                "Give all consumers of the group ordered=True",
                name,
                self._group.group,
                key,
            )

    def _ask(self, verbs: Mapping[LeasedShard, Verb], *, present: bool) -> Steps:
        asked = self._clock()
        for shard, verb in verbs.items():
            if verb == "drop":
                with contextlib.suppress(NotOurs):
                    self._say_trimmed((yield from self._set_deliveries(shard, shard.not_begun, 0)))
        lasts = {shard.key: self._lasts_ms(shard, asked) for shard in verbs}
        members, found = yield from ask(self._shares.me, verbs, lasts, self._group.claim_idle_millis if present else 0)
        for shard, verb in verbs.items():
            lease = found[shard.key]
            shard.free = lease.holder in ("", self._shares.me)
            if lease.is_mine:
                if verb == "take":
                    shard.taken(lease.token)
                    log.info("begins to read %s", shard.key)
                self._sure(shard, asked)
            elif shard.token:
                self._lost(shard, given_up=verb == "drop")
        others = {shard.key: "" if shard.free else found[shard.key].holder for shard in verbs}
        mine = {shard.key: self._shares.me for shard in self._held()}
        self._shares.note(self._name, members, others | mine)

    def _verb(self, shard: LeasedShard) -> Verb:
        if not shard.token:
            return "look"
        return "drop" if shard.leaving and not self._in_hand[shard.key] else "keep"

    def _may_take(self, shard: LeasedShard) -> bool:
        idle = not shard.token and not self._in_hand[shard.key]  # else its function is at work on an event of it still
        return idle and shard.free and self._shares.may_take(shard.key)

    def _held(self) -> list[LeasedShard]:
        return [shard for shard in self._leased.values() if shard.token]

    def _leave_shard(self, shard: LeasedShard) -> None:
        """Begin no more of it; it is given up when nothing of it is in hand."""
        if not shard.leaving:
            shard.leaving = True
            shard.not_begun = self._lines.new_ones(shard.key)
            self._lines.drop(shard.key, failed=True)
            self._check_leases_at = self._clock()

    def _lost(self, shard: LeasedShard, *, given_up: bool = False) -> None:
        if not given_up:
            log.warning("another consumer may read %s now: this one was too slow, or Redis lost data", shard.key)
        shard.lost()
        self._lines.drop(shard.key, failed=True)

    def _lasts_ms(self, shard: LeasedShard, now: float) -> int:
        """How long a lease may last: claim_idle from the begin of its oldest entry in hand, which may be stuck."""
        oldest = min((each.began for each in self._in_hand[shard.key].values()), default=now)
        return max(0, self._group.claim_idle_millis - int((now - oldest) * 1000))

    def _sure(self, shard: LeasedShard, asked: float) -> None:
        shard.sure_until = asked + min(SURE_S, self._lasts_ms(shard, asked) / 1000)

    def _fenced(self, shard: LeasedShard, *command: object) -> Steps:
        """Do it, if the shard is ours. Its answer. Raises NotOurs."""
        asked, token = self._clock(), shard.token
        if not token:
            raise NotOurs
        keys, lasts_ms = [shard.lease, shard.key], self._lasts_ms(shard, asked)
        answer = yield from run(FENCED, keys, self._shares.me, token, lasts_ms, *command)
        if not answer[0]:
            if shard.token == token:
                self._lost(shard)
            raise NotOurs
        self._sure(shard, asked)
        return answer[1] if len(answer) > 1 else None

    def _set_deliveries(self, shard: LeasedShard, ids: Sequence[str], deliveries: int) -> Steps:
        """Set the delivery counts of these entries: of those that were not begun, below what Redis has counted.

        How many are not in the stream any more: Redis 7 answers without these, and forgets that they were pending.
        """
        missing = set(ids)
        for first in range(0, len(ids), MANY):
            command = ("XCLAIM", shard.key, self._group.group, self._group.consumer, 0, *ids[first : first + MANY])
            found = yield from self._fenced(shard, *command, "RETRYCOUNT", deliveries, "JUSTID")
            missing.difference_update(text(each) for each in found)
        if not missing:
            return 0
        oldest = yield Call("xrange", (shard.key, "-", "+"), {"count": 1})
        begin = stream_order(text(oldest[0][0])) if oldest else None
        for entry_id in [each for each in missing if begin is not None and stream_order(each) >= begin]:
            if (yield Call("xrange", (shard.key, entry_id, entry_id))):  # it was acknowledged by hand
                missing.remove(entry_id)
        return len(missing)
