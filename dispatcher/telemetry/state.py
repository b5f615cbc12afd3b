"""Telemetry events to one `ProcessState`: counts since the start, and the troubles of now."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from dispatcher.core import events
from dispatcher.core.findings.needs import LATE_S
from dispatcher.core.findings.snapshot_needs import slows
from dispatcher.core.findings.troubles import TROUBLES
from dispatcher.core.findings.wake_needs import QUEUE_WARN
from dispatcher.core.known_groups import KnownGroup
from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import (
    ENDED,
    EndedDispatcher,
    PastTrouble,
    ProcessState,
    Sample,
    Trouble,
    TroubleKind,
)


class StateTracker:
    """An observer. Its fields are written by the event loop's thread only.

    `latency` gives the counts of the latencies so far, `types` the same by event type; `clock` gives Unix seconds.
    `changed()` is called when a trouble came or went, or has another reason.
    """

    changed: Callable[[], None] | None = None

    def __init__(
        self,
        latency: Callable[[], Latencies],
        *,
        types: Callable[[], Mapping[str, Latencies]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._latency = latency
        self._types = types
        self._clock = clock
        self._name = ""
        self._began = clock()
        self._published = self._failed = self._dead = self._ticks = self._tick_errors = 0
        self._published_at: float | None = None
        self._buried: tuple[float, str] | None = None
        self._refused: dict[int, str] = {}
        self._troubles: dict[TroubleKind, Trouble] = {}
        self._breaker_open = False
        self._missing: dict[str, str] = {}  # sessions without a connection, and what is not done without them
        self._sample: Sample | None = None
        self._ended: dict[str, EndedDispatcher] = {}  # by name, the last ones
        self._past: PastTrouble | None = None
        self._trouble("starting", "", there=True)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        return tuple(self._troubles.values())

    @property
    def past(self) -> PastTrouble | None:
        return self._past

    @property
    def ended(self) -> tuple[EndedDispatcher, ...]:
        return tuple(self._ended.values())

    def sent(self) -> dict[str, float | None]:
        """How many events went out since the start, and for how many seconds none: for those who ask from outside."""
        at = self._published_at
        return {"events": self._published, "quiet_s": None if at is None else round(max(0.0, self._clock() - at), 3)}

    @property
    def known_groups(self) -> tuple[KnownGroup, ...]:
        return tuple(self._sample.known_groups) if self._sample else ()

    def read(self) -> ProcessState:
        at, error = self._buried or (None, None)
        return ProcessState(
            names=(self._name,) if self._name else (),
            started_at=self._began,
            latency=self._latency(),
            types=self._types(),
            published=self._published,
            failed=self._failed,
            dead=self._dead,
            ticks=self._ticks,
            tick_errors=self._tick_errors,
            published_at=self._published_at,
            buried_at=at,
            buried_error=error,
            troubles=self.troubles,
            sample=self._sample,
            past=self._past,
            ended=self.ended,
        )

    def __call__(self, event: events.TelemetryEvent) -> None:
        match event:
            case events.Woke() | events.Slept() | events.Claimed():
                pass  # there are hundreds a second: matched first, or each would be compared with all others
            case events.Ticked(result):
                self._ticks += 1
                self._tick_errors += result == "error"
            case events.Published(entries):
                self._published += entries
                if entries:
                    self._published_at = self._clock()
                if entries and not self._breaker_open:
                    self._trouble("redis", None, there=False)
            case events.Handled(handled="done"):
                self._published += 1  # for the console an event that was handled went out
                self._published_at = self._clock()
            case events.Settled(retried=retried, dead=dead):
                self._failed += retried + dead
                self._dead += dead
            case events.TakenOver(rows, owner, died):
                self._note_ended(owner, rows, died)
            case events.Buried(rows) if rows:
                self._buried = (self._clock(), rows[-1][1])
            case events.Sampled():
                self._sampled(event)
            case events.Started(name, enabled):
                self._name = name
                self._trouble("starting", None, there=False)
                self._trouble("disabled", None, there=not enabled)
            case events.BreakerChanged(state):
                self._breaker_open = state == "open"
                self._change_trouble(event)
            case events.SessionMissing():
                self._session_missing(event)
            case events.StatementRefused():
                self._statement_refused(event)
            case _:
                self._change_trouble(event)

    def _change_trouble(self, event: events.TelemetryEvent) -> None:
        if (change := event.trouble()) is not None:
            self._trouble(change.kind, change.reason, there=change.there, since=change.since)

    def _session_missing(self, event: events.SessionMissing) -> None:
        self._missing.pop(event.session, None)
        if event.reason is not None:
            self._missing[event.session] = event.without
        said = "; ".join(f"{name} ({without})" for name, without in self._missing.items())
        self._trouble("session", said, there=bool(said))

    def _statement_refused(self, event: events.StatementRefused) -> None:
        self._refused.pop(event.number, None)
        if event.error is not None:
            self._refused[event.number] = f"{event.what}: {event.error}"
        said = "; ".join(sorted(set(self._refused.values())))
        self._trouble("refused", said, there=bool(said))

    def _note_ended(self, name: str, rows: int, died: bool) -> None:
        before = self._ended.pop(name, None)
        rows += before.rows if before else 0
        self._ended[name] = EndedDispatcher(name, self._clock(), rows, died)
        while len(self._ended) > ENDED:
            del self._ended[next(iter(self._ended))]
        if self.changed is not None:
            self.changed()

    def _sampled(self, event: events.Sampled) -> None:
        self._sample = replace(event, at=self._clock())
        usage = event.notification_queue_usage
        self._trouble("doorbell", event.doorbell, there=event.doorbell != "installed")
        self._trouble("notify-queue", f"{usage:.0%} full", there=usage >= QUEUE_WARN)
        self._trouble_late(self._sample)
        self._trouble("put-away", ", ".join(event.group_dead), there=bool(event.group_dead))
        if not self._breaker_open:
            self._trouble("redis", event.redis_error, there=event.redis_error is not None)

    def _trouble_late(self, sample: Sample) -> None:
        """Since when events are late: the oldest that waits is another one at each look, and would move that."""
        late, holder = sample.overdue_s > LATE_S, sample.snapshot
        self._trouble("late", None, there=late, since=sample.at - sample.overdue_s)
        known = self._troubles.get("snapshot")
        if known is not None and holder is not None and known.reason != holder.name:
            del self._troubles["snapshot"]  # another one began at another time
        since = holder.since if holder else None
        self._trouble("snapshot", holder.name if holder else None, there=slows(holder, sample.at), since=since)

    def _trouble(self, kind: TroubleKind, reason: str | None, *, there: bool, since: float | None = None) -> None:
        """Note that a trouble is there or gone. One that goes on keeps the time it began, which is now or `since`."""
        known = self._troubles.get(kind)
        if not there:
            self._troubles.pop(kind, None)
            if known is not None and TROUBLES[kind].stops:
                group = known.reason if kind == "backpressure" else None
                self._past = PastTrouble(kind, known.since, self._clock(), group)
        else:
            self._troubles[kind] = Trouble(kind, reason, known.since if known else since or self._clock())
        if self.changed is not None and self._troubles.get(kind) != known:
            self.changed()
