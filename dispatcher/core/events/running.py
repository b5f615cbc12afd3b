"""The life of the process and its workers, and its looks at the whole."""

from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.core.process_state import RunningDispatcher


@dataclass(frozen=True, slots=True)
class Started:
    """The service is up: everything is open that could be opened. `stream_maxlen`: as it was configured."""

    name: str
    enabled: bool
    stream_maxlen: int | None = None


@dataclass(frozen=True, slots=True)
class SidecarUp:
    """Probes, metrics, API and console are served. `port`: the real one, when 0 was asked for."""

    host: str
    port: int


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

    dispatchers: Sequence[RunningDispatcher]


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
