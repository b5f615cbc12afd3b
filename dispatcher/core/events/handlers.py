"""Events of the handlers in this process."""

from dataclasses import dataclass
from typing import Literal

from dispatcher.core.events.base import TelemetryEvent

HandledAs = Literal["done", "retry", "wait", "outage", "dead", "timeout", "lost"]


@dataclass(frozen=True, slots=True)
class Handled(TelemetryEvent):
    """A handler ended, or its timeout passed. `age_s`: from when the row was due to that end.

    "wait", "outage": it asked to be called later, or a server that it needs is away; neither costs an attempt.
    "lost": its process ended, or was taken for dead, while it ran; told by whoever took the row over, without times.

    `error`: class and message, without values of the payload; `where`: file and line that raised.
    """

    row_id: int
    event_type: str
    handled: HandledAs
    age_s: float
    duration_s: float
    error: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class InHand(TelemetryEvent):
    """Handlers at work, rows that wait for a handler, and handlers that go on after their timeout (`stuck`).

    Rows whose handler has ended and that wait to be settled are in none of these numbers.
    """

    running: int
    waiting: int
    stuck: int


@dataclass(frozen=True, slots=True)
class HandlerOutage(TelemetryEvent):
    """Handlers of a type wait, because a server that they need is away (`error`), or go on (None)."""

    event_type: str
    error: str | None


@dataclass(frozen=True, slots=True)
class StuckHandlers(TelemetryEvent):
    """Every place in the handler pool is taken by a handler that does not end (`on`), or one is free again.

    `types`: event types of those that do not end, the most first, at most three.
    """

    on: bool
    stuck: int
    types: tuple[str, ...] = ()
