"""Several processes on one page of metrics."""

import time
from typing import Any

import pytest

from dispatcher.core import events
from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import MetricFamily, WorkerReport
from dispatcher.service.workers.pool import Worker, WorkerPool
from dispatcher.sidecar.readiness import Readiness
from dispatcher.telemetry.merge import MergedMetrics, families
from dispatcher.telemetry.metrics import Metrics
from dispatcher.telemetry.state import StateTracker


def worker(*seen: events.TelemetryEvent) -> tuple[MetricFamily, ...]:
    metrics = Metrics()
    for event in seen:
        metrics(event)
    return families(metrics.registry)


def settled(sent: int) -> events.Settled:
    return events.Settled(sent=sent, retried=0, dead=0, released=0, unknown=0, lost=0)


def sampled(backlog: int, lag: dict[str, int]) -> events.Sampled:
    return events.Sampled(backlog, 0.0, 0.0, 10, lag)


@pytest.mark.promise("workers")
def test_counts_are_added_and_never_fall() -> None:
    living = [
        worker(settled(3), events.Published(3, [0.1, 0.2, 9.0], 0.1)),
        worker(settled(4), events.Published(1, [0.1], 0.1)),
    ]
    own = Metrics()
    merged = MergedMetrics(own, lambda: living)
    value = merged.registry.get_sample_value
    own(events.DeadRetried([1, 2], "api"))
    assert value("messaging_outbox_sent_total") == 7
    assert value("messaging_outbox_retried_total") == 2
    assert value("messaging_dispatch_ticks_total", {"result": "error"}) == 0  # there from the start
    assert value("messaging_dispatch_latency_seconds_count") == 4
    assert value("messaging_dispatch_latency_seconds_bucket", {"le": "0.1"}) == 2
    merged.retire(living.pop())
    assert value("messaging_outbox_sent_total") == 7
    assert value("messaging_dispatch_latency_seconds_count") == 4
    living.append(worker(settled(1)))
    assert value("messaging_outbox_sent_total") == 8


def test_states_are_the_worst_and_figures_the_newest() -> None:
    first = worker(
        events.ListenerChanged(True, None),
        events.BreakerChanged("open", "x"),
        sampled(5, {"a": 1}),
        events.InHand(2, 1, 0),
    )
    second = worker(events.ListenerChanged(False, "x"), sampled(7, {"b": 2}), events.InHand(3, 0, 1))
    own = Metrics()
    value = MergedMetrics(own, lambda: [second, first, worker()]).registry.get_sample_value
    assert value("messaging_dispatch_listener_up") == 0
    assert value("messaging_dispatch_breaker_open") == 1
    assert value("messaging_outbox_backlog_rows") == 7
    assert value("messaging_stream_group_lag_entries", {"group": "b"}) == 2
    assert value("messaging_stream_group_lag_entries", {"group": "a"}) is None  # destroyed since
    assert value("messaging_dispatch_handlers_running") == 5
    own(events.WorkerStarted("worker-00", 2))
    assert value("messaging_dispatch_workers_running") == 2


def test_without_a_worker_the_page_is_there() -> None:
    own = Metrics()
    merged = MergedMetrics(own, list)
    assert {metric.name for metric in merged.registry.collect()} == {metric.name for metric in own.registry.collect()}


def test_every_gauge_says_how_it_is_summed_over_processes() -> None:
    metrics = Metrics()
    gauges = {metric.name for metric in metrics.registry.collect() if metric.type == "gauge"}
    assert gauges
    assert set(metrics.across) == gauges


def running(name: str, report: WorkerReport | None, *, seconds_ago: float = 0.0) -> Worker:
    nothing: Any = None
    at = None if report is None else time.monotonic() - seconds_ago
    return Worker(name, nothing, nothing, nothing, 0.0, report, at)


def report(*seen: events.TelemetryEvent) -> WorkerReport:
    metrics, ready, state = Metrics(), Readiness(), StateTracker(lambda: Latencies((), (0,), 0.0))
    for event in seen:
        for observe in (metrics, ready.observe, state):
            observe(event)
    return WorkerReport(ready(), state.read(), families(metrics.registry))


@pytest.mark.promise("workers")
def test_a_worker_that_starts_again_or_answers_no_more_says_nothing_of_the_others() -> None:
    well = (
        events.Started("a", True),
        events.DatabaseChanged(True, None),
        events.LayoutChanged(None, first=True),
        settled(3),
    )
    pool = WorkerPool(3)
    value = MergedMetrics(Metrics(), pool.families).registry.get_sample_value
    pool.workers = [running("one", report(*well)), running("two", report()), None]
    assert pool.not_ready() == "two: starting"
    pool.workers = [running(name, report(*well)) for name in ("one", "two", "three")]
    assert (pool.not_ready(), value("messaging_dispatch_database_up")) == (None, 1)
    pool.workers = [running("one", report(*well)), running("again", report(settled(1))), None]
    assert (pool.not_ready(), value("messaging_dispatch_database_up")) == (None, 1)
    assert value("messaging_outbox_sent_total") == 4
    no_layout_yet = report(*well[:2])
    pool.workers = [running("one", report(*well)), running("again", no_layout_yet), None]
    assert pool.not_ready() is None
    old = running("frozen", report(*well, sampled(500, {})), seconds_ago=11.0)
    pool.workers = [running("one", report(*well, sampled(0, {}))), old, None]
    assert pool.not_ready() == "frozen: does not answer"
    assert value("messaging_outbox_backlog_rows") == 0
    assert value("messaging_outbox_sent_total") == 6
    down = report(*well, events.DatabaseChanged(False, "gone"))
    pool.workers = [running("one", report(*well)), running("two", down), None]
    assert (pool.not_ready(), value("messaging_dispatch_database_up")) == ("two: database: gone", 0)
    pool.workers = [None, None, None]
    assert pool.not_ready() == "starting"
