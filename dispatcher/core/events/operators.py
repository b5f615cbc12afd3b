"""Events of what a person did: pause, resume, and decisions about dead events and held aggregates."""

from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.core.events.base import Fields, LogLine, TelemetryEvent, TroubleChange


@dataclass(frozen=True, slots=True)
class PauseChanged(TelemetryEvent):
    """Somebody paused or resumed all dispatchers. `since`: when, in Unix seconds; None: not known."""

    paused: bool
    by: str | None
    reason: str | None
    since: float | None = None

    def line(self) -> LogLine:
        fields: Fields = {"by": self.by, "reason": self.reason}
        if self.paused:
            text = "Paused, like all dispatchers: nothing is taken until `dispatcher resume`"
            return LogLine("WARNING", "dispatcher_paused", text, fields)
        return LogLine("INFO", "dispatcher_resumed", "Resumed: rows are taken again", fields)

    def trouble(self) -> TroubleChange:
        why = " ".join(filter(None, (self.by and f"by {self.by}", self.reason and f"({self.reason})")))
        # `since`: or a restart would look like its begin
        return TroubleChange("paused", why or None, there=self.paused, since=self.since)


@dataclass(frozen=True, slots=True)
class DeadRetried(TelemetryEvent):
    """Dead events were put back to be published. `ids`: their rows; `by`: the person, if told, and the address."""

    ids: Sequence[int]
    by: str

    def line(self) -> LogLine:
        text = "Dead events were put back to be published"
        return LogLine("INFO", "dead_events_retried", text, _decision(self.ids, self.by))


@dataclass(frozen=True, slots=True)
class DeadDiscarded(TelemetryEvent):
    """Somebody decided that nobody needs these dead events. `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str
    reason: str

    def line(self) -> LogLine:
        text = "Dead events were discarded: nobody needs them"
        return LogLine("INFO", "dead_events_discarded", text, _decision(self.ids, self.by) | {"reason": self.reason})


@dataclass(frozen=True, slots=True)
class RetriedNow(TelemetryEvent):
    """Events that failed, or hold their aggregates, were made due at once. `ids`: of rows; `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str

    def line(self) -> LogLine:
        text = "Events that failed, or hold their aggregates, were made due at once"
        return LogLine("INFO", "events_retried_now", text, _decision(self.ids, self.by))


@dataclass(frozen=True, slots=True)
class HeldSkipped(TelemetryEvent):
    """Somebody let the later events of aggregates go out without these. `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str
    reason: str

    def line(self) -> LogLine:
        text = "Events were skipped: the later ones of their aggregates go out without them"
        return LogLine("INFO", "held_events_skipped", text, _decision(self.ids, self.by) | {"reason": self.reason})


def _decision(ids: Sequence[int], by: str) -> Fields:
    return {"rows": len(ids), "ids": list(ids), "by": by}
