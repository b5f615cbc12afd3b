"""Events to Prometheus: every metric's name, type and labels, in one table.

The names of the runbook are a contract. Labels of counters have a closed set of values, and each series exists from the
start at 0, so that an alert on `increase(...)` sees the first error too. Hence an alert on ticks has to `sum` over
`result`: a flat error series is good news, not a dispatcher that is down.
"""

import platform
import time
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

from dispatcher import __version__
from dispatcher.core import events
from dispatcher.telemetry.collectors import DroppedLines, Registry
from dispatcher.telemetry.event_types import EventTypes
from dispatcher.telemetry.handler_gauges import HandlerGauges
from dispatcher.telemetry.latency import EDGES, LatencyHistogram
from dispatcher.telemetry.sampled_gauges import SampledGauges

# The `_created` twin of each series doubles the page and nothing reads it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

_NAN = float("nan")

# How a gauge of several processes is shown as one. newest: of the process that sampled last; supervisor: its own value,
# whatever the workers say.
Across = Literal["sum", "min", "max", "newest", "supervisor"]


class Metrics:
    """An observer that counts. Its fields are written by the event loop's thread only.

    `streams`: the keys of the layout. `across`: for each gauge by name, how `telemetry/merge.py` sums it over
    processes. Counters and histograms add up.
    """

    def __init__(self, streams: Sequence[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = Registry(self._forget_what_is_old)
        self.across: dict[str, Across] = {}

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(name, documentation, labels, registry=registry)

        def gauge(across: Across, name: str, documentation: str, *labels: str) -> Gauge:
            self.across[name] = across
            return Gauge(name, documentation, labels, registry=registry)

        # The runbook's. prometheus_client appends `_total` to the name of a counter.
        ticks = counter("messaging_dispatch_ticks", "Turns, waits and failed tries; idle looks included", "result")
        self._ticks = {result: ticks.labels(result) for result in ("ok", "error")}
        self._tick_duration = Histogram(
            "messaging_dispatch_tick_duration_seconds",
            "One turn of the loop: an idle look, or one batch from claim to settle",
            buckets=tuple(sorted({*EDGES, 3.0})),  # the runbook alerts on 1.5 and 3
            registry=registry,
        )
        self._picked = counter("messaging_outbox_picked", "Rows claimed")
        self._sent = counter("messaging_outbox_sent", "Rows settled as sent")
        self._failed = counter("messaging_outbox_failed", "Failures of a row's own, those that buried it included")
        self._dead = counter("messaging_outbox_dead", "Rows buried: no attempt left, or never able to succeed")
        self._published = counter("messaging_dispatch_published", "Entries Redis acknowledged")
        self._dlq = counter("messaging_dispatch_dlq", "Rows copied to the dead-letter queue", "sink").labels("postgres")

        # Ours.
        self.latency = LatencyHistogram(
            "messaging_dispatch_latency_seconds",
            "From occurred_at (of a scheduled or replayed event: from when it was due) to Redis's acknowledgement, "
            "by Postgres's clock",
        )
        registry.register(self.latency)
        self.event_types = EventTypes(
            "messaging_dispatch_latency_by_type_seconds",
            "The same by event type: the twenty that came first in this process, and `other`",
        )
        registry.register(self.event_types)
        wakeups = counter("messaging_dispatch_wakeups", "Ends of a wait, by what ended it", "cause")
        self._wakeups = {cause: wakeups.labels(cause) for cause in get_args(events.WakeCause)}
        self._released = counter(
            "messaging_outbox_returned",
            "Rows released, with their attempts unchanged, by the stream relay or the handler relay",
        )
        self._unknown = counter("messaging_outbox_unknown", "Rows published whose answer never came")
        self._lost = counter("messaging_outbox_claims_lost", "Rows whose claim another dispatcher held when we settled")
        self._avoided = counter(
            "messaging_dispatch_duplicates_avoided",
            "Rows found in the stream, so not sent again: after a lost reply, a takeover or a crash of Postgres",
        )
        self._republished = counter(
            "messaging_dispatch_republished", "Rows put back because Redis lost the entries it had acknowledged"
        )
        self._audit = gauge("min", "messaging_dispatch_audit_on", "1 while it can be noticed that Redis lost entries")
        self._refused = gauge(
            "sum", "messaging_dispatch_statements_refused", "Claims and settles that Postgres refuses again and again"
        )
        self._refused_keys: set[int] = set()
        self._backpressure_blind = gauge(
            "max",
            "messaging_dispatch_backpressure_blind",
            "1 while it cannot be told what consumer groups have not read",
        )
        self._backpressure = gauge(
            "max", "messaging_dispatch_backpressure_on", "1 while claiming waits for a consumer group near MAXLEN"
        )
        self._closed_connection = counter(
            "messaging_outbox_closed_connection", "Attempts of rows on which Redis, or a proxy, closes the connection"
        )
        self._retried = counter("messaging_outbox_retried", "Dead events put back through the API or the console")
        self._discarded = counter("messaging_outbox_discarded", "Dead events discarded through the API or the console")
        self._paused = gauge(
            "max", "messaging_dispatch_paused", "1 while `dispatcher pause` holds all dispatchers back"
        )
        self._layout_differs = gauge(
            "max", "messaging_dispatch_layout_differs", "1 while other streams stand in Postgres than in the settings"
        )
        self._slots_owned = gauge(
            "sum",
            "messaging_dispatch_slots_owned",
            "With DISPATCH_ORDER=aggregate: how many of the 256 slots this dispatcher owns; NaN without an order",
        )
        self._slots_owned.set(_NAN)
        handled = counter("messaging_dispatch_handled", "Ends of handlers, by how they ended", "result")
        self._handled = {result: handled.labels(result) for result in get_args(events.HandledAs)}
        self._handler_duration = Histogram(
            "messaging_dispatch_handler_duration_seconds",
            "How long a handler took, or its timeout",
            buckets=EDGES,
            registry=registry,
        )
        self._handlers = HandlerGauges(gauge)
        self._workers = gauge(
            "supervisor", "messaging_dispatch_workers_running", "Worker processes; 1 without a supervisor"
        )
        self._workers.set(1)
        self._restarts = counter("messaging_dispatch_worker_restarts", "Workers that ended and were started again")
        registry.register(DroppedLines())
        self._taken_over = counter("messaging_outbox_claims_taken_over", "Rows taken from a dead or overdue claim")
        pruned = counter("messaging_outbox_pruned", "Rows deleted because they were older than is kept", "table")
        self._pruned_outbox, self._pruned_dlq = pruned.labels("message_outbox"), pruned.labels("message_dlq")
        self._sampled = SampledGauges(gauge, streams, clock)
        self._maxlen = gauge(
            "max", "messaging_stream_maxlen_entries", "REDIS_STREAM_MAXLEN: what lags behind it is trimmed unread"
        )
        self._breaker = gauge(
            "max", "messaging_dispatch_breaker_open", "1 while claiming pauses because the sink fails"
        )
        self._shards_away = gauge(
            "max",
            "messaging_dispatch_shards_away",
            "Shards of a Redis Cluster that take no entries, so that theirs wait; the others go on",
        )
        self._listener_up = gauge(
            "min",
            "messaging_dispatch_listener_up",
            "1 while the control session is open and can hear; a trigger that is absent or disabled leaves it at 1",
        )
        self._database_up = gauge(
            "min",
            "messaging_dispatch_database_up",
            "1 while any session of lanes or handlers is open (of a disabled dispatcher: chores)",
        )
        self._redis_up = gauge("min", "messaging_dispatch_redis_up", "1 while Redis answers and takes entries")
        self._enabled = gauge("min", "messaging_dispatch_enabled", "1 when DISPATCHER_ENABLED is true")
        gauge("max", "messaging_dispatch_build_info", "Always 1; the labels say what runs", "version", "python").labels(
            __version__, platform.python_version()
        ).set(1)
        self._breaker_open = False
        self._redis_answers = False
        self._maxlen.set(_NAN)

    def __call__(self, event: events.TelemetryEvent) -> None:
        match event:
            case events.Woke(cause):
                self._wakeups[cause].inc()
            case events.Ticked(result, duration_s):
                self._ticks[result].inc()
                self._tick_duration.observe(duration_s)
            case events.Claimed(rows):
                self._picked.inc(rows)
            case events.Published(_, ages_s, _, types):
                self._published.inc(len(ages_s))
                self.latency.observe(ages_s)
                if types:
                    self.event_types.observe(types, ages_s)
                if ages_s and not self._redis_answers:
                    self._redis(answers=True)
            case events.Settled():
                self._settled(event)
            case events.Handled(_, event_type, handled, age_s, duration_s):
                self._handled[handled].inc()
                if handled != "lost":
                    self._handler_duration.observe(duration_s)
                if handled == "done":
                    self.latency.observe([age_s])
                    self.event_types.observe([event_type], [age_s])
            case events.InHand() | events.HandlerOutage():
                self._handlers.note(event)
            case events.WorkerStarted(running=running):
                self._workers.set(running)
            case events.WorkerEnded(running=running, again_in_s=again_in_s):
                self._workers.set(running)
                self._restarts.inc(again_in_s is not None)
            case events.DeadRetried(ids):
                self._retried.inc(len(ids))
            case events.DeadDiscarded(ids):
                self._discarded.inc(len(ids))
            case events.Buried(rows=buried):
                self._dlq.inc(len(buried))
            case events.ClosedConnection():
                self._closed_connection.inc()
            case events.TakenOver(rows):
                self._taken_over.inc(rows)
            case events.Reconciled(found) | events.CrashAudited(found):
                self._avoided.inc(found)
            case events.Sampled():
                self._sampled.show(event)
                self._redis(answers=event.redis_error is None)
            case events.Pruned(outbox, dlq):
                self._pruned_outbox.inc(outbox)
                self._pruned_dlq.inc(dlq)
            case events.Republished(rows):
                self._republished.inc(rows)
            case events.StatementRefused(_, key, error):
                (self._refused_keys.discard if error is None else self._refused_keys.add)(key)
                self._refused.set(len(self._refused_keys))
            case events.BackpressureBlind(reason):
                self._backpressure_blind.set(reason is not None)
            case events.BackpressureChanged(on):
                self._backpressure.set(on)
            case events.PauseChanged(paused):
                self._paused.set(paused)
            case events.LayoutChanged(reason):
                self._layout_differs.set(reason is not None)
            case events.SlotsChanged(owned):
                self._slots_owned.set(owned)
            case events.AuditChanged(on):
                self._audit.set(on)
            case events.BreakerChanged(state):
                self._breaker_open = state == "open"
                self._breaker.set(self._breaker_open)
                self._redis(answers=not self._breaker_open)
            case events.ShardsChanged(away):
                self._shards_away.set(away)
            case events.ListenerChanged(up):
                self._listener_up.set(up)
            case events.DatabaseChanged(up):
                self._database_up.set(up)
                if not up:
                    self._sampled.forget_postgres()
            case events.Started(_, enabled, stream_maxlen):
                self._enabled.set(enabled)
                self._maxlen.set(_NAN if stream_maxlen is None else stream_maxlen)
            case _:
                pass

    def _forget_what_is_old(self) -> None:
        if self._sampled.forget_if_stale():
            self._redis_answers = False
            if not self._breaker_open:
                self._redis_up.set(_NAN)

    def _redis(self, *, answers: bool) -> None:
        self._redis_answers = answers
        self._redis_up.set(answers and not self._breaker_open)

    def _settled(self, event: events.Settled) -> None:
        self._sent.inc(event.sent)
        if event.retried or event.dead or event.released or event.unknown or event.lost:
            self._failed.inc(event.retried + event.dead)
            self._dead.inc(event.dead)
            self._released.inc(event.released)
            self._unknown.inc(event.unknown)
            self._lost.inc(event.lost)
