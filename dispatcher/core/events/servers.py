"""Events of what Postgres and Redis let the dispatcher do: sessions, refusals, and what holds claims back."""

from dataclasses import dataclass
from typing import Literal

from dispatcher.core.events.base import TelemetryEvent


@dataclass(frozen=True, slots=True)
class DatabaseChanged(TelemetryEvent):
    """The relay's Postgres sessions went up or down."""

    up: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class StillAway(TelemetryEvent):
    """A server that was told to be away is away for another reason by now."""

    server: Literal["database", "redis"]
    reason: str


@dataclass(frozen=True, slots=True)
class ListenerChanged(TelemetryEvent):
    """The session that hears the doorbell went up or down (down: the dispatcher works on its tick)."""

    up: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class SessionMissing(TelemetryEvent):
    """The server had no connection left for this session, so that `without` holds; `reason` None: it is there again."""

    session: str
    reason: str | None
    without: str


@dataclass(frozen=True, slots=True)
class StatementRefused(TelemetryEvent):
    """Postgres has refused a statement several times in a row, in its own words; `error` None: it works again.

    `key` tells apart those that are tried at the same time.
    """

    what: str
    key: int
    error: str | None


@dataclass(frozen=True, slots=True)
class NotificationQueueChanged(TelemetryEvent):
    """Postgres's notification queue fills up, so writers are not asked to ring; or it is calm again."""

    filling: bool
    usage: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class BreakerChanged(TelemetryEvent):
    """The breaker before the sink opened or closed."""

    state: Literal["open", "closed"]
    reason: str | None


@dataclass(frozen=True, slots=True)
class ShardsChanged(TelemetryEvent):
    """So many shards of a Cluster take no entries and are left out of the claims; `first`: a key of one, or None."""

    away: int
    first: str | None


@dataclass(frozen=True, slots=True)
class BackpressureChanged(TelemetryEvent):
    """Claiming stopped before MAXLEN trims entries that `group` has not read, or goes on. `unread`: entries."""

    on: bool
    group: str
    unread: int


@dataclass(frozen=True, slots=True)
class BackpressureBlind(TelemetryEvent):
    """Why the lag of the consumer groups cannot be read, so that unread entries may be trimmed. None: it can again."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class LayoutChanged(TelemetryEvent):
    """Another layout of the streams stands in Postgres than ours, so nothing is claimed for them; None: it is ours.

    `first`: it was read for the first time since the start, and nothing was known before.
    """

    reason: str | None
    first: bool = False
