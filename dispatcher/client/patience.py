"""Whether an event, or Redis, is waited for: what is an outage, and until when an event may hold up the others.

In an outage the first event waits where it is, so that a short one changes no order. Then others are tried as well: an
outage that only one event sees is that event's own, and costs it a delivery.
"""

import logging
from collections import Counter
from typing import Literal

from dispatcher.client.steps import Reconnect, Sleep, Steps
from dispatcher.core.outages import (
    PASSING,
    is_outage,
    is_wrong_server,
    needs_a_person,
    passes_by_itself,
    redis_code,
    reply_of,
    sqlstate_of,
    words_of_system,
)
from dispatcher.handlers.outages import Outages

LONGEST_PAUSE_S = 5.0
TRIES_IN_PLACE = 5  # after 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s others are let by
SECONDS_IN_PLACE = 5.0  # or when its tries have taken so long
REMEMBERED = 10_000  # at most so many events that saw an outage; then all are forgotten

MISSPELT = "right before the first event; else compare it with the dispatchers' DISPATCH_STREAM_NAME"

log = logging.getLogger("dispatcher.client")
EntryRef = tuple[str, str]  # of an entry: its key and its id
ErrorMeaning = Literal["waits", "wrong server", "no group", "raise", "unknown"]


def judge(error: Exception) -> ErrorMeaning:
    """What to do about an error of a call to Redis. "unknown": a refusal of a proxy, or a mistake in our command."""
    reply = reply_of(error)
    if reply is None:
        # The connection broke: others in the pool lead there too.
        return "wrong server" if is_outage(error) else "unknown"
    if reply.startswith("NOGROUP"):
        return "no group"
    if is_wrong_server(reply):
        return "wrong server"
    if needs_a_person(reply):
        return "raise"
    return "waits" if passes_by_itself(reply) else "unknown"


def said(error: Exception) -> str:
    """An error of a call to Redis for the log: the server's words where they describe its state, or the system's where
    it was not reached; else no words.
    """
    reply = reply_of(error)
    if reply is None:
        words = words_of_system(error)
        return f"{type(error).__name__} ({words})" if words else type(error).__name__
    return reply[:200] if redis_code(reply) in PASSING else f"{type(error).__name__} {redis_code(reply)}"


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures: 0.1, doubling, at most LONGEST_PAUSE_S."""
    return min(LONGEST_PAUSE_S, 0.1 * 2.0 ** min(failures, 10))


def wait_out(error: Exception, failures: int, *, worked: bool, server: str) -> Steps:
    """What to do about an error of a call to Redis before the next one; raises it when it needs a person.

    `failures`: in a row. `worked`: whether Redis has ever answered as it should. `server`: its address.
    """
    verdict = judge(error)
    if verdict == "raise" or (verdict == "unknown" and not worked):
        raise error
    if verdict == "wrong server":
        yield Reconnect()
    seconds = pause_s(failures)
    log.warning("Redis at %s: %s; trying again in %.1f s", server, said(error), seconds)
    yield Sleep(seconds)


class Patience:
    """The outages that events saw. `named`: exceptions that the application takes for one, or a function that tells."""

    def __init__(self, named: Outages) -> None:
        self._named = named
        self._in_a_row = 0  # outages since an event was handled
        self._spent_s = 0.0  # in those tries
        self._in_place = TRIES_IN_PLACE
        self._handled: Counter[str] = Counter()  # by event type
        self._waiting: dict[EntryRef, int] = {}  # an entry: how many of its type had been handled when it saw an outage

    def is_outage(self, error: Exception) -> bool:
        """Whether the error says that a server is away. An SQLSTATE says more than the class: psycopg has one class for
        a lost connection and for an event's own query that took too long. A function of the application knows best,
        unless it fails: then the error is the event's own.
        """
        try:
            if is_outage(error):
                return True
            if isinstance(self._named, type | tuple):
                return isinstance(error, self._named) and not sqlstate_of(error)
            return bool(self._named(error))
        except Exception as wrong:  # or an error without a text, or without a status, would end run()
            log.warning("outages raised %s when asked about %s", type(wrong).__name__, type(error).__name__)
            return False

    def note_if_its_own(self, ref: EntryRef, event_type: str) -> bool:
        """Whether an event sees an outage again, while others of its type are handled and none has seen one since.

        Then the next such event holds up the others for one try only.
        """
        before = self._waiting.get(ref)
        if before is None or self._handled[event_type] <= before or self._in_a_row:
            return False
        self._in_place = 1
        return True

    def note_outage(self, ref: EntryRef, event_type: str, took_s: float) -> float:
        """Note that an event saw one; how many seconds to wait."""
        if len(self._waiting) >= REMEMBERED:
            self._waiting.clear()
        self._waiting[ref] = self._handled[event_type]
        self._in_a_row += 1
        self._spent_s += took_s
        return pause_s(self._in_a_row - 1)

    def note_if_over(self) -> bool:
        """Whether the event has waited long enough: let others try. After all tries in place it is a real outage."""
        if self._in_a_row >= TRIES_IN_PLACE:
            self._in_place = TRIES_IN_PLACE
        return self._in_a_row >= self._in_place or self._spent_s >= SECONDS_IN_PLACE

    def note_handled(self, ref: EntryRef, event_type: str) -> None:
        """Note that an event was handled: what it needs is there."""
        self._in_a_row, self._spent_s = 0, 0.0
        self._handled[event_type] += 1
        self._waiting.pop(ref, None)

    def forget(self, ref: EntryRef) -> None:
        """Wait no longer for an event that is in the dead stream now."""
        self._waiting.pop(ref, None)
