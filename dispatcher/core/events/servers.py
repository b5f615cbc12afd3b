"""Events of what Postgres and Redis let the dispatcher do: sessions, refusals, and what holds claims back."""

from dataclasses import dataclass
from typing import Literal

from dispatcher.core.events.base import Fields, LogLine, TelemetryEvent, TroubleChange


@dataclass(frozen=True, slots=True)
class DatabaseChanged(TelemetryEvent):
    """The relay's Postgres sessions went up or down."""

    up: bool
    reason: str | None

    def line(self) -> LogLine:
        if self.up:
            return LogLine("INFO", "database_up", "Postgres is connected", {})
        return LogLine("ERROR", "database_down", "Postgres is not connected; connecting again", {"reason": self.reason})

    def trouble(self) -> TroubleChange:
        return TroubleChange("database", self.reason, there=not self.up)


@dataclass(frozen=True, slots=True)
class StillAway(TelemetryEvent):
    """A server that was told to be away is away for another reason by now."""

    server: Literal["database", "redis"]
    reason: str

    def line(self) -> LogLine:
        text = "A server is still away, for another reason than before"
        fields: Fields = {"server": self.server, "reason": self.reason}
        return LogLine("WARNING", "still_away", text, fields, f"{self.server} {self.reason}")

    def trouble(self) -> TroubleChange:
        return TroubleChange(self.server, self.reason, there=True)


@dataclass(frozen=True, slots=True)
class ListenerChanged(TelemetryEvent):
    """The session that hears the doorbell went up or down (down: the dispatcher works on its tick)."""

    up: bool
    reason: str | None

    def line(self) -> LogLine:
        if self.up:
            return LogLine("INFO", "listener_up", "Writers can wake the dispatcher", {})
        text = "Writers cannot wake the dispatcher; it polls on its tick"
        return LogLine("WARNING", "listener_down", text, {"reason": self.reason})

    def trouble(self) -> TroubleChange:
        return TroubleChange("listener", self.reason, there=not self.up)


@dataclass(frozen=True, slots=True)
class SessionMissing(TelemetryEvent):
    """The server had no connection left for this session, so that `without` holds; `reason` None: it is there again."""

    session: str
    reason: str | None
    without: str

    def line(self) -> LogLine:
        if self.reason is None:
            text = "A session to Postgres that was missing is open"
            return LogLine("INFO", "session_back", text, {"session": self.session})
        text = "Postgres has no connection left for a session; the rest of the dispatcher works"
        fields: Fields = {"session": self.session, "without": self.without, "reason": self.reason}
        return LogLine("WARNING", "session_missing", text, fields)


@dataclass(frozen=True, slots=True)
class StatementRefused(TelemetryEvent):
    """Postgres has refused a statement several times in a row, in its own words; `error` None: it works again.

    `number` tells apart those that are tried at the same time.
    """

    what: str
    number: int
    error: str | None

    def line(self) -> LogLine:
        if self.error is None:
            return LogLine("INFO", "statement_allowed", "Postgres does again what it refused", {"what": self.what})
        text = "Postgres refuses a statement again and again; it is tried on, and nothing is published twice"
        return LogLine("ERROR", "statement_refused", text, {"what": self.what, "error": self.error})


@dataclass(frozen=True, slots=True)
class NotificationQueueChanged(TelemetryEvent):
    """Postgres's notification queue fills up, so writers are not asked to ring; or it is calm again."""

    filling: bool
    usage: float  # 0 to 1

    def line(self) -> LogLine:
        fields: Fields = {"usage": round(self.usage, 3)}
        if self.filling:
            text = "The notification queue fills up: no writer is asked to ring, the dispatcher looks on its tick"
            return LogLine("WARNING", "notification_queue_filling", text, fields)
        text = "The notification queue is calm again: writers wake the dispatcher"
        return LogLine("INFO", "notification_queue_calm", text, fields)


@dataclass(frozen=True, slots=True)
class BreakerChanged(TelemetryEvent):
    """The breaker before the sink opened or closed."""

    state: Literal["open", "closed"]
    reason: str | None

    def line(self) -> LogLine:
        if self.state == "open":
            return LogLine(
                "WARNING", "breaker_opened", "Redis takes no entries; claiming pauses", {"reason": self.reason}
            )
        return LogLine("INFO", "breaker_closed", "Redis takes entries again", {})

    def trouble(self) -> TroubleChange:
        return TroubleChange("redis", self.reason, there=self.state == "open")


@dataclass(frozen=True, slots=True)
class ShardsChanged(TelemetryEvent):
    """So many shards of a Cluster take no entries and are left out of the claims; `first`: a key of one, or None."""

    away: int
    first: str | None

    def line(self) -> LogLine:
        if self.first is None:
            return LogLine("INFO", "shards_back", "All shards take entries again", {})
        text = "Some shards take no entries; the others go on"
        fields: Fields = {"shards": self.away, "first": self.first}
        return LogLine("WARNING", "shards_away", text, fields, "shards")


@dataclass(frozen=True, slots=True)
class BackpressureChanged(TelemetryEvent):
    """Claiming stopped before MAXLEN trims entries that `group` has not read, or goes on. `unread`: entries."""

    on: bool
    group: str
    unread: int

    def line(self) -> LogLine:
        fields: Fields = {"group": self.group, "unread": self.unread}
        if self.on:
            text = "Claiming waits: a consumer group is about to lose what it has not read to MAXLEN"
            return LogLine("WARNING", "backpressure_on", text, fields)
        return LogLine("INFO", "backpressure_off", "Claiming goes on: the slowest consumer group moved", fields)

    def trouble(self) -> TroubleChange:
        return TroubleChange("backpressure", self.group, there=self.on)


@dataclass(frozen=True, slots=True)
class BackpressureBlind(TelemetryEvent):
    """The right that is missing to learn what groups have to read, which may be trimmed then. None: it is there."""

    reason: str | None

    def line(self) -> LogLine:
        if self.reason is None:
            return LogLine("INFO", "backpressure_sees", "What each consumer group has to read can be told", {})
        text = "MAXLEN may trim what a consumer group has not read: how much that is cannot be told"
        return LogLine("WARNING", "backpressure_blind", text, {"reason": self.reason})


@dataclass(frozen=True, slots=True)
class LayoutChanged(TelemetryEvent):
    """Another layout stands in Postgres than ours, and forbids some or all claims; None: it is ours, or forbids none.

    `first`: it was read for the first time since the start, and nothing was known before.
    """

    reason: str | None
    first: bool = False

    def line(self) -> LogLine | None:
        if self.reason is not None:
            text = "Another layout (streams, order) stands in Postgres; at most handlers go on, where it has no order"
            return LogLine("ERROR", "layout_differs", text, {"reason": self.reason})
        if self.first:
            return None
        return LogLine("INFO", "layout_agrees", "The layout of the streams is ours; claiming goes on", {})

    def trouble(self) -> TroubleChange:
        return TroubleChange("layout", self.reason, there=self.reason is not None)
