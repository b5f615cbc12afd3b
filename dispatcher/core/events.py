"""What happens, as typed values: production turns them into metrics and log lines, tests wait for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from dispatcher.core.reading import Alive

WakeCause = Literal["notify", "tick", "due", "writers", "peer", "reconnect", "nudge", "busy", "poll"]


@dataclass(frozen=True, slots=True)
class Started:
    """The service is up: everything is open that could be opened. `stream_maxlen`: as it was configured."""

    name: str
    enabled: bool
    stream_maxlen: int | None = None


@dataclass(frozen=True, slots=True)
class Woke:
    """The relay stopped waiting, and why."""

    cause: WakeCause


@dataclass(frozen=True, slots=True)
class Slept:
    """The relay is about to wait. `holds_key`: it is the one writers ring for."""

    holds_key: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ticked:
    """One turn of the loop: an idle look, or one batch from claim to settle. Seconds."""

    result: Literal["ok", "error"]
    duration_s: float
    error: str | None = None  # class and code, no payload


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch was claimed."""

    rows: int
    full: bool


@dataclass(frozen=True, slots=True)
class Published:
    """A pipeline was answered. `ages_s`: seconds from occurred_at to the answer, one an entry, by Postgres's clock."""

    entries: int
    ages_s: Sequence[float]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Handled:
    """A handler ended, or its time was over. `age_s`: seconds from occurred_at to its end, by Postgres's clock.

    `error`: class and message without payload; `where`: file and line that raised.
    """

    row_id: int
    event_type: str
    handled: Literal["done", "retry", "dead", "timeout"]
    age_s: float
    duration_s: float
    error: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class InHand:
    """Rows that handlers work on, rows that wait for one, and handlers that go on though nobody waits for them."""

    running: int
    waiting: int
    stuck: int


@dataclass(frozen=True, slots=True)
class StuckHandlers:
    """All slots are taken by handlers that do not end: no event is handed to one (on), or it is again (off)."""

    on: bool
    stuck: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch was settled. `lost`: rows whose claim was no longer ours."""

    sent: int
    retried: int
    dead: int
    returned: int
    unknown: int
    lost: int


@dataclass(frozen=True, slots=True)
class Buried:
    """Rows went to the dead-letter queue: (id, class and code of the error), no payload."""

    rows: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class ClosedConnection:
    """A row was found to be what closes the connection to the sink; it cost the row an attempt. Size in bytes."""

    row: int
    size: int


@dataclass(frozen=True, slots=True)
class DeadRetried:
    """Dead events were put back to be published. `ids`: their rows; `by`: the address that asked for it."""

    ids: Sequence[int]
    by: str


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


@dataclass(frozen=True, slots=True)
class Sampled:
    """A look at the whole: what is unsettled, how old the oldest is, what the stream holds."""

    backlog: int
    oldest_age_s: float
    notification_queue_usage: float
    stream_length: int | None  # None: Redis did not answer, and `redis_error` says why, or we may not look
    group_lag: dict[str, int]
    redis_error: str | None = None
    dead: int = 0  # dead events that nobody has replayed, up to a bound, and when the newest died (Unix seconds)
    newest_dead_at: float | None = None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Who runs. Looked up only while somebody watches the console."""

    dispatchers: Sequence[Alive]


@dataclass(frozen=True, slots=True)
class Pruned:
    """Retention looked, and deleted so many settled rows and dead-letter copies. `more`: another batch follows soon."""

    outbox: int
    dlq: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class PruneRefused:
    """Postgres refused to prune: a right, a lock or a timeout. Said once for the same reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The supervisor started a worker. `running`: so many are there now."""

    worker: str
    running: int


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A worker ended: an exit code, or minus a signal. `again_in_s`: until another takes its place; None: none does."""

    worker: str
    code: int
    running: int
    again_in_s: float | None


@dataclass(frozen=True, slots=True)
class WorkerStuck:
    """A worker has said nothing for so long, though it should every second: it is killed."""

    worker: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """Nothing new is taken from now on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everything is closed. `given_back`: rows returned to pending at the end."""

    given_back: int


Event = (
    Started
    | Woke
    | Slept
    | Ticked
    | Claimed
    | Published
    | Handled
    | InHand
    | StuckHandlers
    | Settled
    | Buried
    | ClosedConnection
    | DeadRetried
    | TakenOver
    | Reconciled
    | Republished
    | CrashAudited
    | AuditChanged
    | BackpressureChanged
    | BackpressureBlind
    | PauseChanged
    | BreakerChanged
    | ListenerChanged
    | NotificationQueueChanged
    | DatabaseChanged
    | Sampled
    | Surveyed
    | Pruned
    | PruneRefused
    | WorkerStarted
    | WorkerEnded
    | WorkerStuck
    | Stopping
    | Stopped
)
Observer = Callable[[Event], None]


def fan_out(*observers: Observer) -> Observer:
    """One observer that passes each event to all of these, in order."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe
