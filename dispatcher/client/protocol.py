"""The consumer's protocol without I/O: a generator of steps that Consumer and AsyncConsumer carry out.

The consumer sends each answer in and throws each error in. The order: acknowledge finished entries; claim abandoned
ones and those whose retry is due, one at a time, so that an entry that kills its process costs no other entry a
delivery; read new ones. Claimed and new entries take turns, or a few that are slow to fail would hold up all new ones.
"""

import heapq
import logging
import time
from collections.abc import Callable

import redis

from dispatcher.client.answers import WrongAnswer
from dispatcher.client.group import Group
from dispatcher.client.lease import Lease, LeaseLost
from dispatcher.client.names import Names
from dispatcher.client.patience import Patience, judge, pause_s, said
from dispatcher.client.received import Malformed, Received, receive
from dispatcher.client.steps import Call, Entry, Reconnect, RunHandler, Steps, Wait, call, entries_of, text
from dispatcher.core.frames import raised_at
from dispatcher.core.parse import CannotParse

log = logging.getLogger("dispatcher.client")
OF_REDIS = (redis.RedisError, redis.exceptions.RedisClusterException)


class Failed(Exception):
    """The handler or the store raised `error`, and that is the event's own."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class LetBy(Exception):
    """What the event needs is away: it has waited, and now others are tried."""


class GroupReader:
    """The steps of one consumer. Its stop() sets `stopping`; these steps write all else."""

    def __init__(
        self,
        group: Group,
        outages: tuple[type[Exception], ...],
        on_error: Callable[[Received, Exception], object] | None,
        has_store: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stopping = False
        self._group = group
        self._patience = Patience(outages)
        self._on_error = on_error
        self._has_store = has_store
        self._clock = clock
        self._lease = Lease(group, clock)
        self._names = Names(group, clock)
        self._start = group.start  # where the group begins if it has to be made
        self._worked = False  # whether Redis has answered as it should
        self._done: list[str] = []  # handled, not acknowledged
        self._claim_at = 0.0
        self._new_until = 0.0  # new entries have their turn, even if claimed ones are due
        self._retries: list[float] = []  # a heap: when what failed here can be claimed again
        self._cursor = "0-0"

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
                verdict = judge(error)
                if verdict == "raise" or (verdict == "unknown" and not self._worked):
                    raise
                if verdict == "no group":
                    group = self._group
                    log.warning("the group %s of %s is gone; making it again", group.group, group.stream)
                    continue
                if verdict == "wrong server":
                    yield Reconnect()
                seconds = pause_s(failures)
                log.warning("Redis: %s; trying again in %.1f s", said(error), seconds)
                failures += 1
                yield Wait(seconds)
        try:
            yield from self._leave()
        except OF_REDIS as error:
            log.warning("stopped without signing off (%s); what is pending is claimed later", type(error).__name__)

    def _create_group(self) -> Steps:
        try:
            yield call(self._group, "xgroup_create", id=self._start, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._start = "0"  # made again, it was lost: all that is left in the stream may be new to it

    def _turn(self) -> Steps:
        yield from self._acknowledge()
        now = self._clock()
        if now >= self._claim_at and now >= self._new_until:
            yield from self._claim_next()
            after = self._clock()
            self._new_until = after + (after - now)
        elif self._lease.waiting:
            yield from self._work_off()
        else:
            yield from self._read_new()
            if not self._lease.waiting:
                self._new_until = 0.0

    def _read_new(self) -> Steps:
        until_claim_ms = max(1, int((self._claim_at - self._clock()) * 1000))
        group = self._group
        options = {"count": group.count, "block": min(group.block_ms, until_claim_ms)}
        reply = yield Call("xreadgroup", (group.group, group.consumer, {group.stream: ">"}), options)
        self._lease.begin()
        self._lease.waiting.extend(Entry(text(entry_id), fields, 1) for entry_id, fields in entries_of(reply))

    def _work_off(self) -> Steps:
        try:
            yield from self._lease.keep(())
            yield from self._take(self._lease.waiting.popleft())
        except LeaseLost:
            if self._lease.waiting and not self.stopping:
                log.warning(
                    "%d entries waited too long behind a slow one; left to be claimed", len(self._lease.waiting)
                )
                self._lease.waiting.clear()

    def _claim_next(self) -> Steps:
        """One entry that nobody has acknowledged for claim_idle_ms, or the end of the search for now."""
        idle_ms, begin = self._group.claim_idle_ms, self._cursor
        cursor, entries, *rest = yield call(
            self._group, "xautoclaim", self._group.consumer, min_idle_time=idle_ms, start_id=self._cursor, count=1
        )
        if not self._lease.waiting:
            self._lease.begin()
        self._cursor = text(cursor)
        if self._cursor == "0-0":
            now = self._clock()
            while self._retries and self._retries[0] <= now:
                heapq.heappop(self._retries)
            self._claim_at = min([now + min(5.0, max(0.05, idle_ms / 10_000)), *self._retries[:1]])
            yield from self._names.tidy()
        trimmed = len(rest[0]) if rest else 0
        for entry_id, fields in entries:
            if fields is None:
                trimmed += yield from self._drop_trimmed(begin, text(cursor))
                continue
            found = yield call(self._group, "xpending_range", min=entry_id, max=entry_id, count=1)
            deliveries = int(found[0]["times_delivered"]) if found else 1
            try:
                yield from self._take(Entry(text(entry_id), fields, deliveries))
            except LeaseLost:
                return
        if trimmed:
            log.error(
                "%d entries were trimmed or deleted before %s acknowledged them: it will not see them again; "
                "raise REDIS_STREAM_MAXLEN, then `dispatcher replay`",
                trimmed,
                self._group.group,
            )

    def _drop_trimmed(self, begin: str, end: str) -> Steps:
        """Acknowledge what is pending for us and not in the stream any more; how many. Redis 7 does it by itself; Redis
        6.2 would let us claim such an entry for ever, and does not say which it is.
        """
        group = self._group
        bounds = {"min": begin, "max": "+" if end == "0-0" else end}
        found = yield call(group, "xpending_range", **bounds, count=100, consumername=group.consumer)
        waiting = {entry.id for entry in self._lease.waiting}
        trimmed = [text(each["message_id"]) for each in found if text(each["message_id"]) not in waiting]
        for entry_id in list(trimmed):
            if (yield Call("xrange", (group.stream, entry_id, entry_id))):
                trimmed.remove(entry_id)
        if trimmed:
            yield call(group, "xack", *trimmed)
        return len(trimmed)

    def _take(self, entry: Entry) -> Steps:
        """Handle one entry, then acknowledge it, or leave it for a retry, or move it to the dead stream."""
        try:
            event = receive(entry.id, entry.fields, entry.deliveries)
        except Malformed as error:
            return (yield from self._put_away(entry, str(error)))
        if entry.deliveries > self._group.max_deliveries:
            return (yield from self._put_away(entry, "delivered too often without an acknowledgement"))
        try:
            known = self._has_store and (yield from self._patiently(RunHandler("has", event), entry))
            if not known:
                yield from self._patiently(RunHandler("handle", event), entry)
                if self._has_store:
                    yield from self._patiently(RunHandler("add", event), entry)
        except Failed as failed:
            return (yield from self._failed(entry, event, failed.error))
        except LetBy:
            # Its next delivery is counted when it is claimed: this one cost it none.
            return (yield from self._again(entry, self._group.delay_ms(1), {"retrycount": entry.deliveries - 1}))
        self._patience.note_handled(entry.id, event.event_type)
        self._done.append(entry.id)
        return (yield from self._acknowledge())

    def _patiently(self, work: RunHandler, entry: Entry) -> Steps:
        """Run the step; in an outage wait and run it again. Raises Failed, LetBy or LeaseLost."""
        event = work.event
        while True:
            began = self._clock()
            try:
                return (yield work)
            except WrongAnswer:
                raise
            except Exception as error:
                own = not self._patience.is_outage(error) or self._patience.is_its_own(entry.id, event.event_type)
                if own:
                    raise Failed(error) from None
                what = type(error).__name__
            wait_s = self._patience.note_outage(entry.id, event.event_type, self._clock() - began)
            wait_s = min(wait_s, self._group.claim_idle_ms / 3000)  # or it is not ours any more when we have waited
            log.warning("event %s waits: %s; trying again in %.1f s", event.event_id, what, wait_s)
            yield Wait(wait_s)
            stopping = self.stopping
            try:
                if stopping:
                    yield from self._lease.give_back([entry], entry.deliveries - 1)
                else:
                    yield from self._lease.keep([entry])
            except OF_REDIS as error:  # Redis is away too: no failure of the event either
                if judge(error) == "raise":
                    raise
            if stopping:
                raise LeaseLost
            if self._patience.is_over():
                raise LetBy

    def _failed(self, entry: Entry, event: Received, error: Exception) -> Steps:
        line = raised_at(error).rpartition("/")[2]
        reason = f"{type(error).__name__} at {line}" if line else type(error).__name__
        if self._on_error is not None:
            self._on_error(event, error)
        if isinstance(error, CannotParse):
            return (yield from self._put_away(entry, f"{type(error).__name__}: {error}"))
        if entry.deliveries >= self._group.max_deliveries:
            return (yield from self._put_away(entry, reason))
        delay_ms = self._group.delay_ms(entry.deliveries)
        log.error(
            "event %s (%s) failed, delivery %d of %d, next in %d ms: %s",
            event.event_id, event.event_type, entry.deliveries, self._group.max_deliveries, delay_ms, reason,
        )  # fmt: skip
        return (yield from self._again(entry, delay_ms, {}))

    def _again(self, entry: Entry, delay_ms: int, options: dict[str, int]) -> Steps:
        """Let the entry be claimed after the pause, by any consumer."""
        if self._lease.held():  # else another consumer may have it, and would lose it to us
            idle = max(0, self._group.claim_idle_ms - delay_ms)
            yield call(self._group, "xclaim", self._group.consumer, 0, [entry.id], idle=idle, justid=True, **options)
            heapq.heappush(self._retries, self._clock() + (delay_ms + 1) / 1000)  # Redis counts whole milliseconds
            self._claim_at = min(self._claim_at, self._retries[0])

    def _put_away(self, entry: Entry, reason: str) -> Steps:
        """Add the entry to the dead stream, then acknowledge it: a crash between the two doubles it there."""
        why = {
            "dead_reason": reason,
            "dead_group": self._group.group,
            "dead_entry_id": entry.id,
            "dead_deliveries": entry.deliveries,
        }
        log.error("entry %s put away into %s: %s", entry.id, self._group.dead_stream, reason)
        yield Call("xadd", (self._group.dead_stream, {**entry.fields, **why}))
        self._patience.forget(entry.id)
        self._done.append(entry.id)
        yield from self._acknowledge()

    def _acknowledge(self) -> Steps:
        if self._done:
            yield call(self._group, "xack", *self._done)
            self._done.clear()

    def _leave(self) -> Steps:
        """Give back what was not begun, and delete our name from the group: each restart would leave one behind."""
        yield from self._acknowledge()
        yield from self._lease.give_back(self._lease.waiting, 0)
        self._lease.waiting.clear()
        yield from self._names.sign_off()
