"""The consumer's protocol without I/O: a generator of steps that Consumer and AsyncConsumer carry out.

The consumer sends each answer in and throws each error in. The order: acknowledge finished entries; claim abandoned
ones, one at a time, so that an entry that kills its process costs no other entry a delivery; read new ones.
"""

import contextlib
import heapq
import logging
import time
from collections.abc import Callable

import redis

from dispatcher.client.group import Group
from dispatcher.client.lease import Lease, LeaseLost
from dispatcher.client.received import Malformed, Received, receive
from dispatcher.client.steps import Call, Entry, NotNow, RunHandler, Steps, Wait, call, entries_of, pause_s, text
from dispatcher.core.frames import raised_at

log = logging.getLogger("dispatcher.client")
NOT_NOW = (
    redis.ConnectionError,  # its subclasses: loading, busy, too many clients
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)
NEEDS_A_PERSON = (redis.AuthenticationError, redis.exceptions.AuthorizationError)


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
        self._outages: tuple[type[Exception], ...] = (redis.ConnectionError, redis.TimeoutError, *outages)
        self._on_error = on_error
        self._has_store = has_store
        self._clock = clock
        self._lease = Lease(group, clock)
        self._done: list[str] = []  # handled, not acknowledged
        self._claim_at = 0.0
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
                    failures = 0
            except NEEDS_A_PERSON:
                raise
            except NOT_NOW as error:
                seconds = pause_s(failures)
                what = error if isinstance(error, NotNow) else type(error).__name__
                log.warning("Redis: %s; trying again in %.1f s", what, seconds)
                failures += 1
                yield Wait(seconds)
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                log.warning("the group %s of %s is gone; making it again", self._group.group, self._group.stream)
        try:
            yield from self._leave()
        except redis.RedisError as error:
            log.warning("stopped without signing off (%s); what is pending is claimed later", type(error).__name__)

    def _create_group(self) -> Steps:
        try:
            yield call(self._group, "xgroup_create", id=self._group.start, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _turn(self) -> Steps:
        yield from self._acknowledge()
        if self._lease.waiting:
            yield from self._work_off()
        elif self._clock() >= self._claim_at:
            yield from self._claim_next()
        else:
            yield from self._read_new()

    def _read_new(self) -> Steps:
        until_claim_ms = max(1, int((self._claim_at - self._clock()) * 1000))
        group = self._group
        options = {"count": group.count, "block": min(group.block_ms, until_claim_ms)}
        reply = yield Call("xreadgroup", (group.group, group.consumer, {group.stream: ">"}), options)
        self._lease.begin()
        self._lease.waiting.extend(Entry(text(entry_id), fields, 1) for entry_id, fields in entries_of(reply))

    def _work_off(self) -> Steps:
        while self._lease.waiting and not self.stopping:
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
        idle_ms = self._group.claim_idle_ms
        cursor, entries, *rest = yield call(
            self._group, "xautoclaim", self._group.consumer, min_idle_time=idle_ms, start_id=self._cursor, count=1
        )
        self._lease.begin()
        self._cursor = text(cursor)
        if self._cursor == "0-0":
            now = self._clock()
            while self._retries and self._retries[0] <= now:
                heapq.heappop(self._retries)
            self._claim_at = min([now + min(5.0, max(0.05, idle_ms / 10_000)), *self._retries[:1]])
        trimmed = len(rest[0]) if rest else 0
        for entry_id, fields in entries:
            if fields is None:  # before Redis 7, which drops them by itself
                trimmed += 1
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
        except LeaseLost:
            raise
        except NEEDS_A_PERSON:
            raise
        except Exception as error:
            return (yield from self._failed(entry, event, error))
        self._done.append(entry.id)
        return (yield from self._acknowledge())

    def _patiently(self, work: RunHandler, entry: Entry) -> Steps:
        """Run the step; during an outage wait and run it again, at no cost to the event."""
        failures = 0
        while True:
            try:
                return (yield work)
            except NEEDS_A_PERSON:  # some of them are connection errors too
                raise
            except self._outages as error:
                seconds = pause_s(failures)
                log.warning(
                    "event %s waits: %s; trying again in %.1f s", work.event.event_id, type(error).__name__, seconds
                )
                failures += 1
                yield Wait(seconds)
                stopping = self.stopping
                with contextlib.suppress(*NOT_NOW):  # Redis is away too: no failure of the event either
                    if stopping:
                        yield from self._lease.give_back([entry], entry.deliveries - 1)
                    else:
                        yield from self._lease.keep([entry])
                if stopping:
                    raise LeaseLost from None

    def _failed(self, entry: Entry, event: Received, error: Exception) -> Steps:
        line = raised_at(error).rpartition("/")[2]
        reason = f"{type(error).__name__} at {line}" if line else type(error).__name__
        if self._on_error is not None:
            self._on_error(event, error)
        if entry.deliveries >= self._group.max_deliveries:
            return (yield from self._put_away(entry, reason))
        delay_ms = self._group.delay_ms(entry.deliveries)
        log.error(
            "event %s (%s) failed, delivery %d of %d, next in %d ms: %s",
            event.event_id, event.event_type, entry.deliveries, self._group.max_deliveries, delay_ms, reason,
        )  # fmt: skip
        if self._lease.held():  # else another consumer may have it, and would lose it to us
            idle = max(0, self._group.claim_idle_ms - delay_ms)
            yield call(self._group, "xclaim", self._group.consumer, 0, [entry.id], idle=idle, justid=True)
            heapq.heappush(self._retries, self._clock() + (delay_ms + 1) / 1000)  # Redis counts whole milliseconds
            self._claim_at = min(self._claim_at, self._retries[0])
        return None

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
        self._done.append(entry.id)
        yield from self._acknowledge()

    def _acknowledge(self) -> Steps:
        if self._done:
            yield call(self._group, "xack", *self._done)
            self._done.clear()

    def _leave(self) -> Steps:
        """Delete this consumer from its group if nothing is pending: else each restart would leave one behind."""
        yield from self._acknowledge()
        yield from self._lease.give_back(self._lease.waiting, 0)
        self._lease.waiting.clear()
        consumer = self._group.consumer
        pending = yield call(self._group, "xpending_range", min="-", max="+", count=1, consumername=consumer)
        if not pending:
            yield call(self._group, "xgroup_delconsumer", consumer)
