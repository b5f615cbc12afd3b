"""Events of the way of a row: the wait, the claim, the publishing and the settled row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dispatcher.core.events.base import TelemetryEvent

WakeCause = Literal["notify", "tick", "due", "writers", "peer", "reconnect", "nudge", "busy", "poll"]


@dataclass(frozen=True, slots=True)
class Woke(TelemetryEvent):
    """The relay stopped waiting, and why."""

    cause: WakeCause


@dataclass(frozen=True, slots=True)
class Slept(TelemetryEvent):
    """The relay is about to wait. `holds_key`: this dispatcher holds the doorbell's key, so writers ring."""

    holds_key: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ticked(TelemetryEvent):
    """A turn of a relay or a wait of it ended ("ok"), or a try failed ("error"). Counted in the tick metrics.

    A turn is a batch from claim to settle, a claim for handlers, or a look of the waiting relay that found nothing due;
    a wait, one because of a pause or of a consumer group that lags. A claim of the stream relay that finds no row emits
    none. Also counted as failed: tries to reconnect, and failures of the doorbell, of takeover, of audits and of the
    reading of the pause.
    """

    result: Literal["ok", "error"]
    duration_s: float
    error: str | None = None  # no payload and no values of a row


@dataclass(frozen=True, slots=True)
class Claimed(TelemetryEvent):
    """A batch was claimed. `full`: more rows are due. `size`: characters of payloads and headers in memory now."""

    rows: int
    full: bool
    size: int = 0


@dataclass(frozen=True, slots=True)
class Published(TelemetryEvent):
    """Redis answered a pipeline. `ages_s`: for each entry the time from when its row was due to the answer.

    `types`: the event type of each entry, as `ages_s`.
    """

    entries: int
    ages_s: Sequence[float]
    duration_s: float
    types: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Settled(TelemetryEvent):
    """A batch was settled. Rows by outcome; `lost`: another dispatcher had taken the claim over.

    `retried`: at the cost of an attempt; `waiting`: tried again later at no cost.
    """

    sent: int
    retried: int
    dead: int
    released: int
    unknown: int
    lost: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Buried(TelemetryEvent):
    """Rows went to the dead-letter queue: (id, text of the error) of each."""

    rows: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class ClosedConnection(TelemetryEvent):
    """A row was found to be what closes the connection to the sink; it cost the row an attempt. `size`: bytes.

    `server`: the sink itself ended under it.
    """

    row: int
    size: int
    server: bool = False
