"""The base of all telemetry events, what an event says of itself, and the observers that are told of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from dispatcher.core.process_state import TroubleKind

LogLevel = Literal["INFO", "WARNING", "ERROR"]
Fields = dict[str, object]


class LogLine(NamedTuple):
    """A line of the log. `name` is what the runbook greps for, `text` is for people. No payload, no password.

    `same_as`: lines with the same one are written at most every few seconds.
    """

    level: LogLevel
    name: str
    text: str
    fields: Fields
    same_as: str | None = None


class TroubleChange(NamedTuple):
    """A trouble is there, or over. `since`: Unix seconds, where it is known to have begun before the event."""

    kind: TroubleKind
    reason: str | None
    there: bool
    since: float | None = None


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """Something that happened, told to observers: metrics, the log, readiness and tests."""

    detailed: ClassVar[bool] = False  # all its fields are logged as well, at DEBUG

    def line(self) -> LogLine | None:
        """What the log says of it; None: nothing, or only the details."""
        return None

    def trouble(self) -> TroubleChange | None:
        """The trouble that it begins or ends by itself; None: none, or `telemetry/state.py` has to know more."""
        return None


Observer = Callable[[TelemetryEvent], None]


def fan_out(*observers: Observer) -> Observer:
    """One observer that passes each event to all of these, in order."""

    def observe(event: TelemetryEvent) -> None:
        for observer in observers:
            observer(event)

    return observe
