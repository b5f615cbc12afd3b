"""Events of the way of a row: the wait, the claim, the publishing and the settled row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.events.base import Fields, LogLine, TelemetryEvent

WakeCause = Literal["notify", "tick", "due", "writers", "peer", "reconnect", "nudge", "busy", "poll"]


@dataclass(frozen=True, slots=True)
class Woke(TelemetryEvent):
    """The relay stopped waiting, and why."""

    detailed: ClassVar[bool] = True

    cause: WakeCause


@dataclass(frozen=True, slots=True)
class Slept(TelemetryEvent):
    """The relay is about to wait. `holds_key`: this dispatcher holds the doorbell's key, so writers ring."""

    detailed: ClassVar[bool] = True

    holds_key: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ticked(TelemetryEvent):
    """A turn of a relay or a wait of it ended ("ok"), or a try failed ("error"). Counted in the tick metrics.

    A turn is a batch from claim to settle, a claim for handlers, or a due check that found nothing due;
    a wait, one because of a pause or of a consumer group that lags. A claim of the stream relay that finds no row emits
    none. Also counted as failed: tries to reconnect, and failures of the doorbell, of takeover, of audits and of the
    reading of the pause.
    """

    result: Literal["ok", "error"]
    duration_s: float
    error: str | None = None  # no payload and no values of a row

    def line(self) -> LogLine | None:
        if self.result == "ok":
            return None
        error = self.error or "unknown"
        fields: Fields = {"error": error, "duration_s": round(self.duration_s, 6)}
        return LogLine("ERROR", "dispatcher_tick_error", "A turn of the relay's loop failed", fields, error)


@dataclass(frozen=True, slots=True)
class Claimed(TelemetryEvent):
    """A batch was claimed. `full`: more rows are due. `size`: characters of payloads and headers in memory now."""

    detailed: ClassVar[bool] = True

    rows: int
    full: bool
    size: int = 0


@dataclass(frozen=True, slots=True)
class Published(TelemetryEvent):
    """Redis answered a pipeline. `ages_s`: for each entry the time from when its row was due to the answer.

    `types`: the event type of each entry, as `ages_s`.
    """

    detailed: ClassVar[bool] = True

    entries: int
    ages_s: Sequence[float]
    duration_s: float
    types: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Settled(TelemetryEvent):
    """A batch was settled. Rows by outcome; `lost`: another dispatcher had taken the claim over.

    `retried`: at the cost of an attempt; `waiting`: tried again later at no cost.
    """

    detailed: ClassVar[bool] = True

    sent: int
    retried: int
    dead: int
    released: int
    unknown: int
    lost: int
    waiting: int = 0

    def line(self) -> LogLine | None:
        if not self.lost:
            return None
        text = "Claims were lost: another dispatcher had taken these rows when they were to be settled"
        return LogLine("WARNING", "claims_lost", text, {"rows": self.lost})


@dataclass(frozen=True, slots=True)
class Buried(TelemetryEvent):
    """Rows went to the dead-letter queue: (id, text of the error) of each."""

    rows: Sequence[tuple[int, str]]

    def line(self) -> LogLine:
        ids, errors = [row_id for row_id, _ in self.rows], sorted({error for _, error in self.rows})
        text = "Rows are dead: their attempts are used up, or they can never be sent as things are"
        fields: Fields = {"rows": len(self.rows), "ids": ids, "errors": errors}
        return LogLine("ERROR", "outbox_rows_buried_after_max_attempts", text, fields)


@dataclass(frozen=True, slots=True)
class ClosedConnection(TelemetryEvent):
    """A row was found to be what closes the connection to the sink; it cost the row an attempt. `size`: bytes.

    `server`: the sink itself ended under it.
    """

    row: int
    size: int
    server: bool = False

    def line(self) -> LogLine:
        text = "Redis, or a proxy before it, closes the connection on this row; it waits for its next attempt"
        if self.server:
            text = "Redis itself ends each time that this row is sent; it waits for its next attempt"
        fields: Fields = {"id": self.row, "bytes": self.size, "redis_ended": self.server}
        return LogLine("WARNING", "row_closes_connection", text, fields)
