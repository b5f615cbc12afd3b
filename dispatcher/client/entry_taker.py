"""What becomes of one entry: it is handled and acknowledged, or comes again, or is put away."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

import redis

from dispatcher.client.deliveries import NotOurs
from dispatcher.client.function_answers import FunctionBroke, FunctionTooSlow, WrongAnswer
from dispatcher.client.group import Group
from dispatcher.client.patience import REMEMBERED, EntryRef, Patience, judge
from dispatcher.client.received import Malformed, Received, receive
from dispatcher.client.steps import Call, CallApplication, Entry, Sleep, Steps, text
from dispatcher.core.decide import brief
from dispatcher.core.frames import place_of, text_of
from dispatcher.core.parse import CannotParse
from dispatcher.handlers import exceptions as raised
from dispatcher.handlers.outages import Outages

log = logging.getLogger("dispatcher.client")
OF_REDIS = (redis.RedisError, redis.exceptions.RedisClusterException)
CALLED = 2  # with so many deliveries it is called in any case: its consumer may have died in another one of that read
OnError = Callable[[Received, Exception], object]


class Failed(Exception):
    """The function or the dedup store (steps.py) raised `error`: a failure of the event's own, or Wait."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class OthersFirst(Exception):
    """What the event needs is away: it has waited, and now others are tried."""


class EntryTaker(ABC):
    """The steps for one entry of a reader, and what they need to know. A stop sets `stopping`; these steps the rest.

    The four that are abstract say what becomes of an entry in Redis. They raise NotOurs where they know that another
    consumer may have it by now (deliveries.py). `has_store`: there is a dedup store.
    """

    def __init__(
        self,
        group: Group,
        outages: Outages,
        on_error: OnError | None,
        has_store: bool,
        clock: Callable[[], float],
        max_deliveries: Callable[[str], int | None],
    ) -> None:
        self.stopping = False
        self.failed: list[Exception] = []  # by the steps of entries, for the reader to raise
        self._group = group
        self._patience = Patience(outages)
        self._on_error = on_error
        self._has_store = has_store
        self._clock = clock
        self._max_deliveries = max_deliveries
        self._unmarked: set[EntryRef] = set()  # their function has returned, and the store did not take the mark

    @abstractmethod
    def _keep(self, entry: Entry) -> Steps:
        """It is still at work: let no other consumer take it."""

    @abstractmethod
    def _release(self, entry: Entry) -> Steps:
        """Let another consumer take it, as if it had not been delivered to this one."""

    @abstractmethod
    def _done(self, entry: Entry) -> Steps:
        """Acknowledge it."""

    @abstractmethod
    def _again(self, entry: Entry, delay_ms: int, *, counted: bool) -> Steps:
        """Let it come again after the pause. `counted`: as a delivery."""

    def _take(self, entry: Entry) -> Steps:
        """Handle one entry, then acknowledge it, or leave it for a retry, or move it to the dead stream."""
        try:
            event = receive(entry.id, entry.fields, entry.deliveries, entry.key, entry.fence)
        except Malformed as error:
            return (yield from self._put_away(entry, None, str(error)))
        if entry.deliveries > max(self._most(event), CALLED):
            return (yield from self._put_away(entry, event, "delivered too often without an acknowledgement"))
        try:
            done = entry.ref in self._unmarked
            known = self._has_store and not done and (yield from self._patiently(CallApplication("has", event), entry))
            if not (done or known):
                yield from self._patiently(CallApplication("handle", event), entry)
            if self._has_store and not known:
                if len(self._unmarked) >= REMEMBERED:  # others may have taken them
                    self._unmarked.clear()
                self._unmarked.add(entry.ref)
                yield from self._patiently(CallApplication("add", event), entry)
                self._unmarked.discard(entry.ref)
        except Failed as failed:
            return (yield from self._failed(entry, event, failed.error))
        except OthersFirst:
            return (yield from self._again(entry, self._group.delay_ms(1), counted=False))
        self._patience.note_handled(entry.ref, event.event_type)
        return (yield from self._done(entry))

    def _patiently(self, work: CallApplication, entry: Entry) -> Steps:
        """Run the step; in an outage wait and run it again. Raises Failed, OthersFirst or NotOurs."""
        event = work.event
        while True:
            began = self._clock()
            try:
                return (yield work)
            except WrongAnswer:
                raise
            except (raised.Wait, raised.Retry, raised.Dead) as told:
                raise Failed(told) from None
            except Exception as error:
                # A store speaks of no event: in a Cluster one node may be away, and with it the marks of some only.
                store = work.what != "handle"
                if not self._patience.is_outage(error) or (
                    not store and self._patience.note_if_its_own(entry.ref, event.event_type)
                ):
                    raise Failed(error) from None
                what = type(error).__name__
            wait_s = self._patience.note_outage(entry.ref, event.event_type, self._clock() - began)
            wait_s = min(wait_s, self._group.claim_idle_millis / 3000)  # or it is not ours any more when we have waited
            log.warning("event %s waits: %s; trying again in %.1f s", event.event_id, what, wait_s)
            yield Sleep(wait_s)
            stopping = self.stopping
            try:
                if stopping:
                    yield from self._release(entry)
                else:
                    yield from self._keep(entry)
            except OF_REDIS as error:  # Redis is away too: no failure of the event either
                if judge(error) == "raise":
                    raise
            if stopping:
                raise NotOurs
            if self._patience.note_if_over():
                raise OthersFirst

    def _most(self, event: Received) -> int:
        """How many deliveries it has."""
        return self._max_deliveries(event.event_type) or self._group.max_deliveries

    def _failed(self, entry: Entry, event: Received, error: Exception) -> Steps:
        if isinstance(error, raised.Wait):  # no failure
            delay_ms = min(self._group.claim_idle_millis, int(error.after_s * 1000))
            return (yield from self._again(entry, delay_ms, counted=False))
        told: BaseException = error.__cause__ or error if isinstance(error, FunctionBroke) else error
        line = place_of(told).rpartition("/")[2]
        reason = f"{type(told).__name__} at {line}" if line else type(told).__name__
        if self._on_error is not None:
            self._on_error(event, error)
        if isinstance(error, CannotParse | raised.Dead | FunctionTooSlow):
            reason = f"{type(error).__name__}: {text_of(error)}"
        if isinstance(error, CannotParse | raised.Dead) or entry.deliveries >= self._most(event):
            return (yield from self._put_away(entry, event, reason))
        delay_ms = self._group.delay_ms(entry.deliveries)
        if isinstance(error, raised.Retry) and error.after_s is not None:
            delay_ms = min(self._group.claim_idle_millis, int(error.after_s * 1000))
        log.error(
            "event %s (%s) failed, delivery %d of %d, next in %d ms: %s",
            event.event_id, event.event_type, entry.deliveries, self._most(event), delay_ms, reason,
        )  # fmt: skip
        return (yield from self._again(entry, delay_ms, counted=True))

    def _put_away(self, entry: Entry, event: Received | None, reason: str) -> Steps:
        """Add the entry to the dead stream, then acknowledge it: a crash between the two doubles it there."""
        reason = brief(reason)  # text that is not valid Unicode cannot be written, and would end run() each time
        why = {
            "dead_reason": reason,
            "dead_group": self._group.group,
            "dead_entry_id": entry.id,
            "dead_deliveries": entry.deliveries,
        }
        dead_stream = self._group.dead_stream_of(entry.key)
        there = text((yield Call("xadd", (dead_stream, {**entry.fields, **why}))))
        what = f"event {event.event_id} ({event.event_type})" if event else "no event of ours"
        log.error("entry %s, %s, put away into %s as %s: %s", entry.id, what, dead_stream, there, reason)
        self._patience.forget(entry.ref)
        yield from self._done(entry)
