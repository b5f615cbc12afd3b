"""Events to Prometheus: the metrics' names, types and labels, and the event that changes each; more in `*_gauges.py`.

Names in `_promised_names` are those of the metrics of Dispatchbox, the service that this one replaces: alerts and
dashboards of those who come from there use them. Labels of counters have a closed set of values, and each series exists
from the start at 0, so that an alert on `increase(...)` sees the first error too. Hence an alert on ticks has to `sum`
over `result`: a flat error series is good news, not a dispatcher that is down.
"""

import time
from collections.abc import Callable, Sequence
from typing import get_args

import prometheus_client

from dispatcher.core import events
from dispatcher.telemetry.collectors import DroppedLines, MetricsRegistry
from dispatcher.telemetry.event_types import EventTypes
from dispatcher.telemetry.handler_gauges import HandlerGauges
from dispatcher.telemetry.latency import EDGES, LatencyHistogram
from dispatcher.telemetry.meter import Meter
from dispatcher.telemetry.sampled_gauges import SampledGauges
from dispatcher.telemetry.server_gauges import ServerGauges

# The `_created` twin of each series doubles the page and nothing reads it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """An observer that counts. Its fields are written by the event loop's thread only.

    `streams`: the keys of the layout. `across`: see `Meter`.
    """

    def __init__(self, streams: Sequence[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = MetricsRegistry(self._forget_what_is_old)
        self.latency = LatencyHistogram(
            "messaging_dispatch_latency_seconds",
            "From occurred_at (of a scheduled or replayed event: from when it was due) to Redis's acknowledgement, "
            "by Postgres's clock",
        )
        self.event_types = EventTypes(
            "messaging_dispatch_latency_by_type_seconds",
            "The same by event type: the twenty that came first in this process, and `other`",
        )
        meter = Meter(self.registry)
        self.across, self._heard = meter.across, meter.heard
        # In the order in which they are shown.
        _promised_names(meter)
        self._latencies(meter)
        _of_the_relay(meter)
        _of_redis_and_the_groups(meter)
        _of_pause_layout_and_dead_events(meter)
        _of_handlers(meter)
        _of_processes(meter)
        _of_takeover_and_retention(meter)
        self._sampled = SampledGauges(meter, streams, clock)
        self._servers = ServerGauges(meter)

    def __call__(self, event: events.TelemetryEvent) -> None:
        for change in self._heard.get(type(event), ()):
            change(event)

    def _latencies(self, meter: Meter) -> None:
        self.registry.register(self.latency)
        self.registry.register(self.event_types)

        def published(event: events.Published) -> None:
            self.latency.observe(event.ages_s)
            if event.types:
                self.event_types.observe(event.types, event.ages_s)

        def handled(event: events.Handled) -> None:
            if event.handled == "done":
                self.latency.observe([event.age_s])
                self.event_types.observe([event.event_type], [event.age_s])

        meter.hear(events.Published, published)
        meter.hear(events.Handled, handled)

    def _forget_what_is_old(self) -> None:
        if self._sampled.forget_if_stale():
            self._servers.redis_up.forget()


def _promised_names(meter: Meter) -> None:
    ticks = meter.counter("messaging_dispatch_ticks", "Turns, waits and failed tries; idle checks included", "result")
    by_result = {result: ticks.labels(result) for result in ("ok", "error")}
    tick_duration = meter.histogram(
        "messaging_dispatch_tick_duration_seconds",
        "One turn of the loop: one batch from claim to settle, one check, wait or failed try",
        tuple(sorted({*EDGES, 3.0})),  # alerts ask for 1.5 and 3
    )

    def ticked(event: events.Ticked) -> None:
        by_result[event.result].inc()
        tick_duration.observe(event.duration_s)

    meter.hear(events.Ticked, ticked)
    meter.count("messaging_outbox_picked", "Rows claimed", events.Claimed, lambda event: event.rows)
    sent = meter.counter("messaging_outbox_sent", "Rows settled as sent")
    failed = meter.counter("messaging_outbox_failed", "Failures of a row's own, those that buried it included")
    dead = meter.counter("messaging_outbox_dead", "Rows buried: no attempt left, or never able to succeed")

    def settled(event: events.Settled) -> None:
        sent.inc(event.sent)
        if event.retried or event.dead:
            failed.inc(event.retried + event.dead)
            dead.inc(event.dead)

    meter.hear(events.Settled, settled)
    meter.count(
        "messaging_dispatch_published",
        "Entries Redis acknowledged",
        events.Published,
        lambda event: len(event.ages_s),
    )
    # The label is Dispatchbox's too; it says where dead letters are kept, not where events go.
    dlq = meter.counter("messaging_dispatch_dlq", "Rows copied to the dead-letter queue", "sink").labels("postgres")
    meter.hear(events.Buried, lambda event: dlq.inc(len(event.rows)))


def _of_the_relay(meter: Meter) -> None:
    wakeups = meter.counter("messaging_dispatch_wakeups", "Ends of a wait, by what ended it", "cause")
    by_cause = {cause: wakeups.labels(cause) for cause in get_args(events.WakeCause)}
    meter.hear(events.Woke, lambda event: by_cause[event.cause].inc())
    released = meter.counter(
        "messaging_outbox_returned",
        "Rows released by a settle, with their attempts unchanged",
    )
    unknown = meter.counter(
        "messaging_outbox_unknown",
        "Rows published whose answer never came, left to a successor: a stop came before the search for them",
    )
    lost = meter.counter("messaging_outbox_claims_lost", "Rows whose claim another dispatcher held when we settled")

    def settled(event: events.Settled) -> None:
        if event.released or event.unknown or event.lost:
            released.inc(event.released)
            unknown.inc(event.unknown)
            lost.inc(event.lost)

    meter.hear(events.Settled, settled)
    avoided = meter.counter(
        "messaging_dispatch_duplicates_avoided",
        "Rows found in the stream, so not sent again: after a lost reply, a takeover or a crash of Postgres",
    )
    meter.hear(events.Reconciled, lambda event: avoided.inc(event.found))
    meter.hear(events.CrashAudited, lambda event: avoided.inc(event.found))


def _of_redis_and_the_groups(meter: Meter) -> None:
    meter.count(
        "messaging_outbox_closed_connection",
        "Attempts of rows on which Redis, or a proxy, closes the connection",
        events.ClosedConnection,
        lambda event: 1,
    )
    meter.count(
        "messaging_dispatch_republished",
        "Rows put back because Redis lost the entries it had acknowledged",
        events.Republished,
        lambda event: event.rows,
    )
    audit_on = meter.show(
        "min",
        "messaging_dispatch_audit_on",
        "1 while it can be noticed that Redis lost entries; NaN before Redis was asked",
        events.AuditChanged,
        lambda event: event.on,
    )
    audit_on.set(float("nan"))
    refused = meter.gauge(
        "sum", "messaging_dispatch_statements_refused", "Claims and settles that Postgres refuses again and again"
    )
    now_refused = set[int]()

    def statement_refused(event: events.StatementRefused) -> None:
        (now_refused.discard if event.error is None else now_refused.add)(event.number)
        refused.set(len(now_refused))

    meter.hear(events.StatementRefused, statement_refused)
    meter.show(
        "max",
        "messaging_dispatch_backpressure_blind",
        "1 while it cannot be told what consumer groups have not read",
        events.BackpressureBlind,
        lambda event: event.reason is not None,
    )
    meter.show(
        "max",
        "messaging_dispatch_backpressure_on",
        "1 while claiming waits for a consumer group near MAXLEN",
        events.BackpressureChanged,
        lambda event: event.on,
    )


def _of_pause_layout_and_dead_events(meter: Meter) -> None:
    meter.count(
        "messaging_outbox_retried",
        "Dead events put back through the API or the console",
        events.DeadRetried,
        lambda event: len(event.ids),
    )
    meter.count(
        "messaging_outbox_discarded",
        "Dead events discarded through the API or the console",
        events.DeadDiscarded,
        lambda event: len(event.ids),
    )
    meter.show(
        "max",
        "messaging_dispatch_paused",
        "1 while `dispatcher pause` holds all dispatchers back",
        events.PauseChanged,
        lambda event: event.paused,
    )
    meter.show(
        "max",
        "messaging_dispatch_layout_differs",
        "1 while other streams stand in Postgres than in the settings",
        events.LayoutChanged,
        lambda event: event.reason is not None,
    )
    slots_owned = meter.show(
        "sum",
        "messaging_dispatch_slots_owned",
        "With DISPATCH_ORDER=aggregate: how many of the 256 slots this dispatcher owns; NaN without an order",
        events.SlotsChanged,
        lambda event: event.owned,
    )
    slots_owned.set(float("nan"))


def _of_handlers(meter: Meter) -> None:
    handled = meter.counter("messaging_dispatch_handled", "Ends of handlers, by how they ended", "result")
    by_result = {result: handled.labels(result) for result in get_args(events.HandledAs)}
    duration = meter.histogram(
        "messaging_dispatch_handler_duration_seconds", "How long a handler took, or its timeout", EDGES
    )

    def ended(event: events.Handled) -> None:
        by_result[event.handled].inc()
        if event.handled != "lost":  # its process ended under it: nobody knows how long it took
            duration.observe(event.duration_s)

    meter.hear(events.Handled, ended)
    HandlerGauges(meter)


def _of_processes(meter: Meter) -> None:
    workers = meter.gauge(
        "supervisor", "messaging_dispatch_workers_running", "Worker processes; 1 without a supervisor"
    )
    workers.set(1)
    meter.hear(events.WorkerStarted, lambda event: workers.set(event.running))
    meter.hear(events.WorkerEnded, lambda event: workers.set(event.running))
    meter.count(
        "messaging_dispatch_worker_restarts",
        "Workers that ended and were started again",
        events.WorkerEnded,
        lambda event: event.again_in_s is not None,
    )
    meter.registry.register(DroppedLines())


def _of_takeover_and_retention(meter: Meter) -> None:
    meter.count(
        "messaging_outbox_claims_taken_over",
        "Rows taken over from dispatchers that died or froze",
        events.TakenOver,
        lambda event: event.rows,
    )
    pruned = meter.counter("messaging_outbox_pruned", "Rows deleted because they were older than is kept", "table")
    outbox, dlq = pruned.labels("message_outbox"), pruned.labels("message_dlq")
    meter.hear(events.Pruned, lambda event: outbox.inc(event.outbox))
    meter.hear(events.Pruned, lambda event: dlq.inc(event.dlq))
