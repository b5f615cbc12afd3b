"""Events of the handlers in this process."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.events.base import Fields, LogLevel, LogLine, TelemetryEvent, TroubleChange

HandledAs = Literal["done", "retry", "wait", "outage", "dead", "timeout", "lost"]


@dataclass(frozen=True, slots=True)
class Handled(TelemetryEvent):
    """A handler ended, or its timeout passed. `age_s`: from when the row was due to that end.

    "wait", "outage": it asked to be called later, or a server that it needs is away; neither costs an attempt.
    "lost": its process ended, or was taken for dead, while it ran; told by whoever took the row over, without times.

    `error`: class and message, without values of the payload; `where`: file and line that raised.
    """

    detailed: ClassVar[bool] = True

    row_id: int
    event_type: str
    handled: HandledAs
    age_s: float
    duration_s: float
    error: str | None = None
    where: str | None = None

    def line(self) -> LogLine | None:
        if self.handled in ("done", "outage"):  # an outage is told once, for its type
            return None
        level: LogLevel = "WARNING"
        name, text = "handler_failed", "A handler failed"
        match self.handled:
            case "wait":
                level, name = "INFO", "handler_waits"
                text = "A handler asked to be called later; the event waits at no cost"
            case "timeout":
                text = "A handler did not end in time"
            case "lost":
                text = "The process of a handler ended, or was taken for dead, while it ran"
        fields: Fields = {"event_type": self.event_type, "id": self.row_id, "error": self.error}
        fields |= {"where": self.where, "duration_s": round(self.duration_s, 6)}
        return LogLine(level, name, text, fields, f"{self.event_type} {self.error}")


@dataclass(frozen=True, slots=True)
class InHand(TelemetryEvent):
    """Handlers at work, rows that wait for a handler, and handlers that go on after their timeout (`stuck`).

    Rows whose handler has ended and that wait to be settled are in none of these numbers.
    """

    detailed: ClassVar[bool] = True

    running: int
    waiting: int
    stuck: int


@dataclass(frozen=True, slots=True)
class HandlerOutage(TelemetryEvent):
    """Handlers of a type wait, because a server that they need is away (`error`), or go on (None)."""

    event_type: str
    error: str | None

    def line(self) -> LogLine:
        if self.error is None:
            text = "Events of this type are handled again"
            return LogLine("INFO", "handler_outage_over", text, {"event_type": self.event_type})
        text = "A server that a handler needs is away; events of this type wait, at no cost"
        return LogLine("WARNING", "handler_outage", text, {"event_type": self.event_type, "error": self.error})


@dataclass(frozen=True, slots=True)
class StuckHandlers(TelemetryEvent):
    """As many handlers as there are places are stuck (`on`), or fewer again.

    `types`: their event types, the most first, at most three.
    """

    on: bool
    stuck: int
    types: tuple[str, ...] = ()

    def line(self) -> LogLine:
        if not self.on:
            return LogLine("INFO", "handlers_free", "A stuck handler ended; events are handed out again", {})
        text = "As many handlers as there are places do not end, so no more events are handed out; restart the process"
        return LogLine("ERROR", "handlers_stuck", text, {"stuck": self.stuck})

    def trouble(self) -> TroubleChange:
        of = f" of {', '.join(self.types)}" if self.types else ""
        reason = f"{self.stuck} handlers{of} go on after their timeout, as many as there are places"
        return TroubleChange("handlers", reason, there=self.on)
