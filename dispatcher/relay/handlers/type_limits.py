"""How many handlers of each event type may run now, so that no type takes what the others need.

- A type whose server is away (its handlers raised their outages, and none was done between) gets none for a while, then
  one at a time until one does not meet the outage again. Its events wait at no cost. The first outage says nothing of
  the type yet: only that event waits.
- Where there are several types, one whose handlers take long gets at most four fifths of the places that the others
  leave free.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from time import monotonic

from dispatcher.core.backoff import Backoff
from dispatcher.core.events import HandlerOutage, Observer
from dispatcher.handlers.load import HandlersByType
from dispatcher.stages.claim import EventTypeFilter

AWAY = Backoff(base_s=0.5, cap_s=15.0)  # pauses of a type whose server is away
SLOW_S = 1.0  # handlers that take longer on average could hold all places for long
SLOW_PART = 0.8
PROOFS = 3  # so often others of its type are done between two outages of an event: then they are its own failures
REMEMBERED = 10_000  # events of a type that met an outage


@dataclass(slots=True)
class _Type:
    """What is known of one event type. Monotonic seconds."""

    mean_s: float | None = None
    outages: int = 0  # one after the other; 0: its server answers
    waits_until: float = 0.0
    first_outage: bool = True  # the next one would be the first since a handler ended well: it may be that event's own
    done: int = 0
    outages_of: dict[int, tuple[int, int]] = field(
        default_factory=dict
    )  # by row: `done` at its last outage; how often that had grown


class TypeLimits:
    """Written by the tasks of one handler relay. `wake()` is called when more may be claimed than before."""

    def __init__(
        self,
        handlers: HandlersByType,
        parallel: int,
        wake: Callable[[], None],
        observe: Observer,
        rng: Random,
    ) -> None:
        self._types = {event_type: _Type() for event_type in handlers}
        self._parallel = parallel
        self._wake = wake
        self._observe = observe
        self._rng = rng
        self._full: frozenset[str] = frozenset()  # at the last claim

    def most(self, event_type: str, running: Counter[str]) -> int:
        """How many handlers of this type may run, when so many of each type do."""
        known = self._types.get(event_type)
        if known is None:
            return self._parallel  # it has no handler and is buried
        if known.outages:
            return 1 if monotonic() >= known.waits_until else 0
        if len(self._types) == 1 or (known.mean_s is not None and known.mean_s < SLOW_S):
            return self._parallel
        others = running.total() - running[event_type]
        return max(1, int(SLOW_PART * (self._parallel - others)))

    def to_claim(self, running: Counter[str], event_types: EventTypeFilter | None) -> EventTypeFilter | None:
        """What to claim of `event_types` (None: everything), without types that may run no more handlers now."""
        full = frozenset(each for each in self._types if running[each] >= self.most(each, running))
        self._full = full
        if not full:
            return event_types
        if event_types is None:
            return EventTypeFilter(tuple(full), only_these=False)
        return EventTypeFilter(tuple(each for each in event_types.types if each not in full), only_these=True)

    def next_try_s(self) -> float:
        """Seconds until a type that meets an outage may be tried again; infinity: there is none to wait for."""
        now = monotonic()
        return min((each.waits_until - now for each in self._types.values() if each.waits_until > now), default=inf)

    def ended(self, event_type: str, seconds: float, *, done: bool, timed_out: bool) -> None:
        """Note the end of a handler that met no outage. `timed_out`: its server may be away still."""
        known = self._types[event_type]
        mean_s = known.mean_s
        known.mean_s = seconds if mean_s is None else mean_s * 0.8 + seconds * 0.2
        known.done += done
        known.first_outage = known.first_outage or done
        if known.outages and not timed_out:
            known.outages, known.waits_until = 0, 0.0
            self._observe(HandlerOutage(event_type, None))
        if self._full:
            self._wake()

    def outage(self, event_type: str, row_id: int, error: str) -> float | None:
        """Note that the server of a handler is away. Seconds for the event to wait; None: the failure is its own."""
        known = self._types[event_type]
        done, times = known.outages_of.get(row_id, (known.done, 0))
        times = min(times + (known.done > done), PROOFS)
        if len(known.outages_of) >= REMEMBERED:
            known.outages_of.clear()
        known.outages_of[row_id] = (known.done, times)
        if times == PROOFS and known.done > done:
            return None
        now = monotonic()
        if known.first_outage:  # only the second makes all of the type wait: each event may need a server of its own
            known.first_outage = False
            return AWAY.reconnect_delay(1, self._rng)
        if now >= known.waits_until:
            known.outages += 1
            known.waits_until = now + AWAY.reconnect_delay(known.outages, self._rng)
            if known.outages == 1:
                self._observe(HandlerOutage(event_type, error))
        return known.waits_until - now + self._rng.uniform(0.0, 0.1)
