"""What one dispatcher process knows of itself at one moment, as plain values: the sum of several is one of them too.

`telemetry/state.py` makes it of events; the console draws and judges it. With several processes each worker sends its
own to the supervisor in a `WorkerReport`, and `merged` adds them up: counts are summed, troubles stand side by side,
the newest sample counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from dispatcher.core.dead_stream import LastPutAway
from dispatcher.core.known_groups import KnownGroup, Loss
from dispatcher.core.latencies import Latencies, summed

# Of the trigger that wakes the dispatcher. "dropped": its function is there, so it was not left out on purpose.
TriggerState = Literal["installed", "disabled", "dropped", "absent"]
# All that is known of each: `core/findings/troubles.py`.
TroubleKind = Literal[
    "starting", "stopping", "disabled", "paused", "database", "redis", "backpressure", "listener", "audit", "session",
    "refused", "layout", "slots", "handlers", "doorbell", "notify-queue", "put-away", "late", "snapshot",
]  # fmt: skip
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is not as usual. `since`: Unix seconds. `reason`: an error or a name; no payload."""

    kind: TroubleKind
    reason: str | None
    since: float
    of: int = 1  # processes that have it


@dataclass(frozen=True, slots=True)
class RunningDispatcher:
    """A dispatcher that holds its lock in the registry. `started_at`: Unix seconds."""

    name: str
    host: str | None
    pid: int | None
    version: str | None
    started_at: float


@dataclass(frozen=True, slots=True)
class SentBy:
    """What a dispatcher noted in Postgres `heard_s` seconds ago: events since its start, and `quiet_s` since the last
    (None: it sent none). Seconds and no times: each host has its own clock.
    """

    name: str
    events: int
    quiet_s: float | None
    heard_s: float


@dataclass(frozen=True, slots=True)
class StreamSample:
    """One of several streams: its key, its entries, what each group has yet to read, and since when nobody read it.

    `oldest`: when its oldest entry was added, of a shard that a group of other shards is not on.
    """

    name: str
    length: int
    group_lag: dict[str, int]
    group_read_age_s: dict[str, float] = field(default_factory=dict)
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class PastTrouble:
    """An outage or a pause that is over. Unix seconds. `reason`: of backpressure, the consumer group."""

    kind: TroubleKind
    since: float
    until: float
    reason: str | None = None


ENDED = 8  # dispatchers that were taken over from are remembered


@dataclass(frozen=True, slots=True)
class EndedDispatcher:
    """One of which rows were taken over, perhaps none. `died`: it ended without signing off; else it was frozen."""

    name: str
    at: float  # Unix seconds
    rows: int
    died: bool


@dataclass(frozen=True, slots=True)
class RetryCount:
    """Events that failed and are tried again; of the one with the most failed attempts what failed, and when it is due.

    `id`: its row; `since`: when it failed first, in Unix seconds as `next_at`. `overdue_s`: how overdue the oldest
    event is, by when it is due; with an order those that an earlier one of their aggregate holds do not count.
    """

    events: int = 0
    attempts: int = 0
    event_type: str = ""
    error: str | None = None
    next_at: float | None = None
    overdue_s: float = 0.0
    id: int | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class HeldHead:
    """The event that holds an aggregate. `state`: dead | retry | parked | in_flight; `waiting`: later events."""

    id: int
    event_type: str
    aggregate_type: str
    aggregate_id: str
    state: str
    waiting: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HeldCount:
    """How many aggregates are held, how many of them by a dead event, and for how many seconds the first of them.

    `error`: of the event that holds longest; None: it has none. `head`: the first event that holds one, if it was read.
    """

    aggregates: int = 0
    by_dead: int = 0
    oldest_s: float = 0.0
    error: str | None = None
    head: HeldHead | None = None


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """What the dead events died of. `since`: when the first of them died, in Unix seconds. `errors`: how many groups.

    `most`: events of the largest group, `error` the newest text of it, `greatest` the greatest first number in such
    texts, `code` as messaging.error_code makes it; None: it has none.
    """

    since: float
    errors: int
    most: int
    error: str | None
    code: str | None = None
    greatest: int | None = None


@dataclass(frozen=True, slots=True)
class SnapshotHolder:
    """Who holds the oldest snapshot: a session (`name`: its pid), a prepared transaction, a replication slot.

    `since`: when its transaction began, in Unix seconds; None: this role may not see it. `transactions`: since then.
    """

    kind: str
    name: str
    user: str | None
    application: str | None
    state: str | None
    since: float | None
    transactions: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What Postgres and Redis held. `at`: Unix seconds. Ages in seconds."""

    backlog: int
    oldest_age_s: float
    notification_queue_usage: float  # of Postgres, 0 to 1
    stream_length: int | None  # None: Redis did not answer (`redis_error` says why), or we have no right to ask
    group_lag: Mapping[str, int]
    redis_error: str | None = None
    dead: int = 0  # dead events that nobody has replayed, counted up to a bound
    newest_dead_at: float | None = None  # Unix seconds
    dispatchers: Sequence[RunningDispatcher] = ()  # of all hosts
    newest_dead_error: str | None = None
    group_read_age_s: Mapping[str, float] = field(default_factory=dict)  # since each group was read last; inf: never
    streams: Sequence[StreamSample] = ()  # where there are several; above is their sum, and the most of each group
    held: HeldCount | None = None  # None: nothing is kept in order
    dead_groups: DeadGroups | None = None  # None: none is dead, or so many that they are not grouped
    retrying: RetryCount | None = None  # None: it was not looked up
    doorbell: TriggerState = "installed"
    snapshot: SnapshotHolder | None = None  # who holds the oldest one
    known_groups: Sequence[KnownGroup] = ()  # those that are there, and those that went with a loss
    loss: Loss | None = None  # the last one in Redis
    group_dead: Mapping[str, int] = field(default_factory=dict)  # entries that consumers put away, where there are some
    ended: Sequence[EndedDispatcher] = ()  # that any dispatcher took over from, as all say
    sent: Sequence[SentBy] = ()  # by each dispatcher, as it noted lately
    group_reader: Mapping[str, str] = field(default_factory=dict)  # the consumer that read last
    group_put_away: Mapping[str, LastPutAway] = field(default_factory=dict)  # the last entry that was put away
    at: float = 0.0

    @property
    def overdue_s(self) -> float:
        """How overdue the oldest event is, by when it is due."""
        return self.retrying.overdue_s if self.retrying else self.oldest_age_s


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Counts since the start and the state now, of one process or of several. Times are Unix seconds."""

    names: tuple[str, ...]
    started_at: float
    latency: Latencies
    types: Mapping[str, Latencies] = field(default_factory=dict)  # by event type, of a bounded number of types
    published: int = 0
    failed: int = 0
    dead: int = 0
    ticks: int = 0
    tick_errors: int = 0
    published_at: float | None = None  # when an event last went out
    buried_at: float | None = None  # when rows last went to the dead letters, and with which error
    buried_error: str | None = None
    troubles: tuple[Trouble, ...] = ()
    sample: Sample | None = None
    processes: int = 1
    past: PastTrouble | None = None  # the last outage or pause that ended
    ended: tuple[EndedDispatcher, ...] = ()  # the last ones that this process took over from


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric with all its series: name of the sample, labels, value."""

    name: str
    documentation: str
    type: str
    samples: tuple[tuple[str, Labels, float], ...]


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker tells its supervisor about once a second. `not_ready`: the reason in words; None: it is ready."""

    not_ready: str | None
    state: ProcessState
    families: tuple[MetricFamily, ...]


def merged(states: Sequence[ProcessState]) -> ProcessState:
    """Several processes of one host as one; there must be one at least."""
    if len(states) == 1:
        return states[0]
    last_buried = max(states, key=lambda one: one.buried_at or 0.0)
    samples = [one.sample for one in states if one.sample is not None]
    return ProcessState(
        names=tuple(name for one in states for name in one.names),
        started_at=min(one.started_at for one in states),
        latency=summed(one.latency for one in states),
        types={
            name: summed(one.types[name] for one in states if name in one.types)
            for name in dict.fromkeys(name for one in states for name in one.types)
        },
        published=sum(one.published for one in states),
        failed=sum(one.failed for one in states),
        dead=sum(one.dead for one in states),
        ticks=sum(one.ticks for one in states),
        tick_errors=sum(one.tick_errors for one in states),
        published_at=max((one.published_at for one in states if one.published_at is not None), default=None),
        buried_at=last_buried.buried_at,
        buried_error=last_buried.buried_error,
        troubles=_side_by_side(states),
        sample=max(samples, key=lambda one: one.at, default=None),
        processes=sum(one.processes for one in states),
        past=max((one.past for one in states if one.past), key=lambda each: each.until, default=None),
        # The newest ones: a supervisor adds up those of every worker that ended, for as long as it lives.
        ended=tuple(sorted((each for one in states for each in one.ended), key=lambda each: each.at)[-ENDED:]),
    )


def _side_by_side(states: Sequence[ProcessState]) -> tuple[Trouble, ...]:
    """One of each kind, since the first process had it, with the number of those that have it."""
    found: dict[TroubleKind, Trouble] = {}
    for trouble in sorted((each for one in states for each in one.troubles), key=lambda each: each.since):
        first = found.get(trouble.kind)
        found[trouble.kind] = replace(first, of=first.of + trouble.of) if first else trouble
    return tuple(found.values())
