"""Events of what a person did: pause, resume, and decisions about dead events and held aggregates."""

from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.core.events.base import TelemetryEvent


@dataclass(frozen=True, slots=True)
class PauseChanged(TelemetryEvent):
    """Somebody paused or resumed all dispatchers. `since`: when, in Unix seconds; None: not known."""

    paused: bool
    by: str | None
    reason: str | None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class DeadRetried(TelemetryEvent):
    """Dead events were put back to be published. `ids`: their rows; `by`: the person, if told, and the address."""

    ids: Sequence[int]
    by: str


@dataclass(frozen=True, slots=True)
class DeadDiscarded(TelemetryEvent):
    """Somebody decided that nobody needs these dead events. `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetriedNow(TelemetryEvent):
    """Events that failed, or hold their aggregates, were made due at once. `ids`: of rows; `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str


@dataclass(frozen=True, slots=True)
class HeldSkipped(TelemetryEvent):
    """Somebody let the later events of aggregates go out without these. `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str
    reason: str
