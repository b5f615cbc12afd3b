"""What guards the loop: takeovers, audits, and what holds claims back."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TakenOver:
    """Rows of dead or overdue claims were put back to be claimed again."""

    rows: int
    owner: str


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Rows whose reply was lost were looked for in the stream. `found`: sent after all, duplicates avoided."""

    found: int
    missing: int


@dataclass(frozen=True, slots=True)
class Republished:
    """Another run of Redis holds the stream than before: rows whose entries it lost, perhaps none, were put back."""

    rows: int
    why: str


@dataclass(frozen=True, slots=True)
class CrashAudited:
    """Postgres crashed, failed over or was restored: rows it had forgotten were found in the stream, perhaps none."""

    found: int
    looked_at: int  # entries


@dataclass(frozen=True, slots=True)
class AuditChanged:
    """Whether it can be noticed that Redis lost entries."""

    on: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class BackpressureChanged:
    """Claiming stopped before MAXLEN trims what a group has not read, or goes on. `unread`: by the slowest group."""

    on: bool
    group: str
    unread: int


@dataclass(frozen=True, slots=True)
class PauseChanged:
    """Somebody paused or resumed all dispatchers."""

    paused: bool
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class BackpressureBlind:
    """Why what a group has not read may be trimmed: it cannot be told how much that is. None: it can again."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """The breaker before the sink opened or closed."""

    state: Literal["open", "closed"]
    reason: str | None


@dataclass(frozen=True, slots=True)
class ListenerChanged:
    """The doorbell's listener went up or down (down: the dispatcher works on its tick)."""

    up: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class NotificationQueueChanged:
    """Postgres's notification queue fills up, and no writer is asked to ring; or it is calm again.

    `usage`: the share of it that is in use.
    """

    filling: bool
    usage: float


@dataclass(frozen=True, slots=True)
class DatabaseChanged:
    """The relay's Postgres sessions went up or down."""

    up: bool
    reason: str | None
