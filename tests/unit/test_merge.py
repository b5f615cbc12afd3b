"""Several processes on one page of metrics."""

import pytest

from dispatcher.core import events
from dispatcher.core.process_state import MetricFamily
from dispatcher.telemetry.merge import MergedMetrics, families
from dispatcher.telemetry.metrics import Metrics


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
