"""Events of what runs beside the relay: takeover, audits, gauges and retention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dispatcher.core.dead_stream import LastPutAway
from dispatcher.core.events.base import TelemetryEvent
from dispatcher.core.known_groups import KnownGroup, Loss
from dispatcher.core.process_state import (
    DeadGroups,
    EndedDispatcher,
    HeldCount,
    RetryCount,
    RunningDispatcher,
    SentBy,
    SnapshotHolder,
    StreamSample,
    TriggerState,
)


@dataclass(frozen=True, slots=True)
class TakenOver(TelemetryEvent):
    """This dispatcher took over rows of a dead dispatcher or of an overdue claim; of a dead one perhaps none.

    Emitted before the stream is searched for them: some turn out to be sent. Reconciled follows, with both numbers.
    """

    rows: int
    owner: str
    died: bool = False  # its lock was free: it ended without signing off


@dataclass(frozen=True, slots=True)
class Reconciled(TelemetryEvent):
    """The stream was searched for rows of unknown outcome. `found`: sent after all; `missing`: released."""

    found: int
    missing: int


@dataclass(frozen=True, slots=True)
class Republished(TelemetryEvent):
    """The incarnation of Redis changed: rows whose entries it lost, perhaps none, were put back.

    `same_server`: it did not change, and the stream in it lost its end.
    """

    rows: int
    why: str
    same_server: bool = False


@dataclass(frozen=True, slots=True)
class CrashAudited(TelemetryEvent):
    """Postgres crashed, failed over or was restored, and the stream was searched for rows that it had forgotten."""

    found: int
    looked_at: int  # entries


@dataclass(frozen=True, slots=True)
class AuditChanged(TelemetryEvent):
    """Whether a loss of entries in Redis can be noticed."""

    on: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Sampled(TelemetryEvent):
    """What Postgres and Redis hold now: read every few seconds."""

    backlog: int
    oldest_age_s: float
    notification_queue_usage: float  # 0 to 1
    stream_length: int | None  # None: Redis did not answer (`redis_error` says why), or we have no right to ask
    group_lag: dict[str, int]
    redis_error: str | None = None
    dead: int = 0  # dead events that nobody has replayed, counted up to a bound
    newest_dead_at: float | None = None  # Unix seconds
    dispatchers: Sequence[RunningDispatcher] = ()
    newest_dead_error: str | None = None
    group_read_age_s: Mapping[str, float] = field(default_factory=dict)  # since each group was read last; inf: never
    streams: Sequence[StreamSample] = ()  # where there are several; above is their sum, and the most of each group
    held: HeldCount | None = None  # None: nothing is kept in order
    dead_groups: DeadGroups | None = None  # None: none is dead, or so many that they are not grouped
    retrying: RetryCount | None = None
    doorbell: TriggerState = "installed"
    snapshot: SnapshotHolder | None = None  # who holds the oldest one
    known_groups: Sequence[KnownGroup] = ()  # those that are there, and those that went with a loss
    loss: Loss | None = None  # the last one in Redis
    group_dead: Mapping[str, int] = field(default_factory=dict)  # entries that consumers put away, where there are some
    ended: Sequence[EndedDispatcher] = ()  # that any dispatcher took over from, as all say
    sent: Sequence[SentBy] = ()  # by each dispatcher, as it noted lately
    group_reader: Mapping[str, str] = field(default_factory=dict)  # the consumer that read last
    group_put_away: Mapping[str, LastPutAway] = field(default_factory=dict)  # the last entry that was put away


@dataclass(frozen=True, slots=True)
class Pruned(TelemetryEvent):
    """Retention deleted so many settled rows and dead-letter copies, perhaps none. `more`: another batch follows."""

    outbox: int
    dlq: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class PruneRefused(TelemetryEvent):
    """Postgres refused to prune: a right, a lock or a timeout. Emitted once for the same reason."""

    reason: str
