"""The consumer's protocol without I/O: a generator of steps that Consumer and AsyncConsumer carry out.

The consumer sends each answer in and throws each error in. The order: acknowledge finished entries; claim abandoned
ones and those whose retry is due, one at a time, so that an entry that kills its process costs no other entry a
delivery; read new ones. Claimed and new entries take turns, or a few that are slow to fail would hold up all new ones.
"""

import logging
import time
from collections.abc import Callable, Sequence

from dispatcher.client.group import Group
from dispatcher.client.lease import LeaseLost
from dispatcher.client.patience import judge, wait_out
from dispatcher.client.steps import Call, EndTurn, Entry, Handle, Join, Steps, TakeTurn, pages_of, text
from dispatcher.client.taking import OF_REDIS, EntryTaker, OnError
from dispatcher.handlers.outages import Outages

log = logging.getLogger("dispatcher.client")


class GroupReader(EntryTaker):
    """The steps of one consumer, or of one of its readers. Its stop() sets `stopping`; these steps write all else.

    `keys`: those that one command can read: all of the stream, or in a Cluster those of one hash slot.
    """

    def __init__(
        self,
        group: Group,
        outages: Outages,
        on_error: OnError | None,
        has_store: bool,
        keys: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        attempts: Callable[[str], int | None] = lambda event_type: None,
    ) -> None:
        super().__init__(group, outages, on_error, has_store, keys or group.keys, clock, attempts)
        self._start = group.start  # where the group begins if it has to be made
        self._worked = False  # whether Redis has answered as it should
        self._new_until = 0.0  # new entries have their turn, even if claimed ones are due

    def steps(self) -> Steps:
        """Steps until a stop. Waits while Redis is away; raises errors that need a person (a password, a right)."""
        failures = 0
        while not self.stopping:
            try:
                yield from self._create_group()
                while not self.stopping:
                    yield from self._turn()
                    failures, self._worked = 0, True
            except OF_REDIS as error:
                yield EndTurn()
                if judge(error) == "no group":
                    group = self._group
                    log.warning("the group %s of %s is gone; making it again", group.group, self._where())
                    continue
                yield from wait_out(error, failures, worked=self._worked)
                failures += 1
        try:
            yield from self._leave()
        except OF_REDIS as error:
            log.warning("stopped without signing off (%s); what is pending is claimed later", type(error).__name__)

    def _where(self) -> str:
        """The stream, or its one key that is read here, for the log."""
        return self._group.stream if len(self._shards) > 1 else self._due.key

    def _create_group(self) -> Steps:
        for shard in self._shards.values():
            yield from shard.create(self._start)
        self._start = "0"  # made again, it was lost: all that is left in the stream may be new to it

    def _turn(self) -> Steps:
        if self.failed:
            raise self.failed.pop(0)
        yield from self._acknowledge()
        now = self._clock()
        if now >= self._due.claim_at and now >= self._new_until:
            yield from self._in_turn(self._claim_next)
        elif self._lease.waiting:
            yield from self._in_turn(self._work_off)
        else:
            yield from self._read_new()
            if not self._lease.waiting:
                self._new_until = 0.0

    def _read_new(self) -> Steps:
        until_claim_ms = max(1, int((self._due.claim_at - self._clock()) * 1000))
        group = self._group
        options = {
            "count": max(1, group.count // len(self._shards)),  # of each key
            "block": min(group.block_ms, until_claim_ms),
        }
        reply = yield Call("xreadgroup", (group.group, group.consumer, dict.fromkeys(self._shards, ">")), options)
        now = self._clock()
        for key, page in pages_of(reply):
            self._lease.waiting.extend(Entry(text(entry_id), fields, 1, key, now) for entry_id, fields in page)

    def _in_turn(self, work: Callable[[], Steps]) -> Steps:
        """Do it when it is our turn; while we wait for that, what was delivered to us stays ours."""
        try:
            while not (yield TakeTurn(self._group.claim_idle_ms / 3000)):
                yield from self._lease.keep()
            if not self.stopping:
                yield from work()
        except LeaseLost:
            if self._lease.waiting and not self.stopping:
                log.warning(
                    "%d entries waited too long behind a slow one; left to be claimed", len(self._lease.waiting)
                )
                self._lease.waiting.clear()
        yield EndTurn()

    def _work_off(self) -> Steps:
        yield from self._lease.keep()
        yield Handle(self._carry_out(self._lease.waiting.popleft()))

    def _claim_next(self) -> Steps:
        """One entry that nobody has acknowledged for claim_idle_ms, or the end of the search for now."""
        shard, began = self._due, self._clock()
        (_, entries, *rest), begin = yield from shard.claim()
        self._due = min(self._shards.values(), key=lambda each: each.claim_at)
        now = self._clock()
        if shard.cursor == "0-0":
            yield from shard.names.tidy()
        trimmed = len(rest[0]) if rest else 0
        for entry_id, fields in entries:
            if fields is None:
                waiting = {entry.id for entry in self._lease.waiting if entry.key == shard.key}
                trimmed += yield from shard.drop_trimmed(begin, shard.cursor, waiting)
                continue
            found = yield shard.call("xpending_range", min=entry_id, max=entry_id, count=1)
            deliveries = int(found[0]["times_delivered"]) if found else 1
            yield Handle(self._carry_out(Entry(text(entry_id), fields, deliveries, shard.key, now)))
        after = self._clock()
        self._new_until = after + (after - began)
        if trimmed:
            log.error(
                "%d entries were trimmed or deleted before %s acknowledged them: it will not see them again; "
                "raise REDIS_STREAM_MAXLEN, then `dispatcher replay`",
                trimmed,
                self._group.group,
            )

    def _acknowledge(self) -> Steps:
        for shard in self._shards.values():
            if shard.done:
                yield from shard.acknowledge()

    def _leave(self) -> Steps:
        """Give back what was not begun, and delete our name from the group: each restart would leave one behind."""
        yield Join()
        yield from self._acknowledge()
        yield from self._lease.give_back(self._lease.waiting, 0)
        self._lease.waiting.clear()
        for shard in self._shards.values():
            yield from shard.names.sign_off()
