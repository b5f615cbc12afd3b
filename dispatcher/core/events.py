"""Telemetry events: what just happened, as typed values. Metrics, log lines, readiness and tests all come from them.

A new event is a class here, its line in `telemetry/logs.py` and, if it counts something, its metric in
`telemetry/metrics.py`. No event carries a payload, a header or a password: observers write events out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dispatcher.core.process_state import HeldCount, RunningDispatcher, StreamSample

HandledAs = Literal["done", "retry", "wait", "outage", "dead", "timeout", "lost"]
WakeCause = Literal["notify", "tick", "due", "writers", "peer", "reconnect", "nudge", "busy", "poll"]


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """Something that happened, told to observers: metrics, the log, readiness and tests."""


Observer = Callable[[TelemetryEvent], None]


def fan_out(*observers: Observer) -> Observer:
    """One observer that passes each event to all of these, in order."""

    def observe(event: TelemetryEvent) -> None:
        for observer in observers:
            observer(event)

    return observe


# The way of a row: from the wait to the settled row.


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
    """Every place in the handler pool is taken by a handler that does not end (`on`), or one is free again."""

    on: bool
    stuck: int


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


@dataclass(frozen=True, slots=True)
class DeadRetried(TelemetryEvent):
    """Dead events were put back to be published. `ids`: their rows; `by`: the person, if told, and the address."""

    ids: Sequence[int]
    by: str


@dataclass(frozen=True, slots=True)
class DeadDiscarded(TelemetryEvent):
    """Somebody decided that nobody needs these dead events. `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class HeldRetried(TelemetryEvent):
    """Events that hold their aggregates were made due at once. `ids`: their rows; `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str


@dataclass(frozen=True, slots=True)
class HeldSkipped(TelemetryEvent):
    """Somebody let the later events of aggregates go out without these. `by`: as of DeadRetried."""

    ids: Sequence[int]
    by: str
    reason: str


# What guards the way: takeovers, audits, and what holds claims back.


@dataclass(frozen=True, slots=True)
class TakenOver(TelemetryEvent):
    """This dispatcher took over rows of a dead dispatcher or of an overdue claim.

    Emitted before the stream is searched for them: some turn out to be sent. Reconciled follows, with both numbers.
    """

    rows: int
    owner: str


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
class PauseChanged(TelemetryEvent):
    """Somebody paused or resumed all dispatchers."""

    paused: bool
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class LayoutChanged(TelemetryEvent):
    """Another layout of the streams stands in Postgres than ours, so nothing is claimed for them; None: it is ours."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class SlotsChanged(TelemetryEvent):
    """With an order: this dispatcher owns other slots than before. `owned`: of 256; `ranges`: in so many ranges.

    `revoked`: another dispatcher took so many from us, because we looked dead or frozen.
    """

    owned: int
    ranges: int
    gained: int
    released: int
    revoked: int


@dataclass(frozen=True, slots=True)
class SlotsWithoutOwner(TelemetryEvent):
    """With an order: nobody has owned so many slots for a while, so their events wait; 0: all have an owner again."""

    slots: int


@dataclass(frozen=True, slots=True)
class SlotsRevoked(TelemetryEvent):
    """With an order: we took so many slots from another dispatcher that is dead or frozen.

    Emitted before it is fenced. SlotsFreed follows when others may own them.
    """

    slots: int
    owner: str


@dataclass(frozen=True, slots=True)
class SlotsFreed(TelemetryEvent):
    """With an order: slots that were revoked are free, as nothing of them is in hand any more."""

    slots: int


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
class SpansDropped(TelemetryEvent):
    """Spans of traces that were not exported. `reason`: the class of the error, or words of ours."""

    spans: int
    reason: str


# The life of the process and its workers.


@dataclass(frozen=True, slots=True)
class Started(TelemetryEvent):
    """The service is up: everything is open that could be opened. `stream_maxlen`: as it was configured."""

    name: str
    enabled: bool
    stream_maxlen: int | None = None


@dataclass(frozen=True, slots=True)
class SidecarUp(TelemetryEvent):
    """Probes, metrics, API and console are served. `port`: the one that was bound, when 0 was asked for.

    `probe_port`: where probes are answered besides, when they have a port of their own.
    """

    host: str
    port: int
    probe_port: int | None = None


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


@dataclass(frozen=True, slots=True)
class WorkerStarted(TelemetryEvent):
    """The supervisor started a worker. `running`: the number of workers now."""

    worker: str
    running: int


@dataclass(frozen=True, slots=True)
class WorkerEnded(TelemetryEvent):
    """A worker ended. `code`: its exit code, or minus a signal; `again_in_s`: until it is replaced, None: never."""

    worker: str
    code: int
    running: int
    again_in_s: float | None


@dataclass(frozen=True, slots=True)
class WorkerStuck(TelemetryEvent):
    """A worker that should report every second has been silent for so long that it is killed."""

    worker: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class Stopping(TelemetryEvent):
    """A stop began: nothing new is claimed. `reason`: the signal, or what asked for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped(TelemetryEvent):
    """Everything is closed. `given_back`: rows claimed for handlers that were returned to pending at the end."""

    given_back: int
