"""What each event adds to the metrics, and that the runbook's names are there from the start."""

import random
from math import isnan
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from dispatcher.core import events
from dispatcher.telemetry.latency import EDGES, LatencyHistogram
from dispatcher.telemetry.metrics import Metrics
from dispatcher.telemetry.sampled_gauges import STALE_S

RUNBOOK = [
    ("messaging_dispatch_ticks_total", {"result": "ok"}),
    ("messaging_dispatch_ticks_total", {"result": "error"}),
    ("messaging_dispatch_tick_duration_seconds_count", {}),
    ("messaging_outbox_picked_total", {}),
    ("messaging_outbox_sent_total", {}),
    ("messaging_outbox_failed_total", {}),
    ("messaging_outbox_dead_total", {}),
    ("messaging_dispatch_published_total", {}),
    ("messaging_dispatch_dlq_total", {"sink": "postgres"}),
]


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(("name", "labels"), RUNBOOK)
def test_runbook_series_start_at_zero(metrics, name, labels):
    assert value(metrics, name, **labels) == 0


def test_types_are_the_runbooks(metrics):
    types = {family.name: family.type for family in metrics.registry.collect()}
    assert types["messaging_dispatch_ticks"] == "counter"
    assert types["messaging_outbox_dead"] == "counter"
    assert types["messaging_dispatch_tick_duration_seconds"] == "histogram"
    assert types["messaging_dispatch_latency_seconds"] == "histogram"


@pytest.mark.parametrize("cause", get_args(events.WakeCause))
def test_each_cause_of_waking_has_a_series(metrics, cause):
    assert value(metrics, "messaging_dispatch_wakeups_total", cause=cause) == 0
    metrics(events.Woke(cause))
    assert value(metrics, "messaging_dispatch_wakeups_total", cause=cause) == 1


def test_both_histograms_have_the_promise_as_an_edge(metrics):
    for name in ("messaging_dispatch_tick_duration_seconds", "messaging_dispatch_latency_seconds"):
        assert value(metrics, f"{name}_bucket", le="1.5") == 0
    assert value(metrics, "messaging_dispatch_tick_duration_seconds_bucket", le="3.0") == 0


def test_a_batch_is_counted(metrics):
    metrics(events.Claimed(rows=10, full=False))
    metrics(events.Published(entries=9, ages_s=[0.001, 0.0021, 2.0], duration_s=0.001))
    metrics(events.Settled(sent=3, retried=2, dead=1, released=2, unknown=1, lost=1))
    metrics(events.Buried(rows=[(7, "redis: ERR")]))
    metrics(events.Ticked("ok", 0.004))
    metrics(events.Ticked("error", 1.6, "SessionLost"))
    metrics(events.Reconciled(found=4, missing=1))
    metrics(events.TakenOver(rows=5, owner="a"))
    metrics(events.Pruned(outbox=6, dlq=7))
    expected = {
        "messaging_outbox_picked_total": 10,
        "messaging_dispatch_published_total": 3,
        "messaging_dispatch_latency_seconds_count": 3,
        "messaging_outbox_sent_total": 3,
        "messaging_outbox_failed_total": 3,
        "messaging_outbox_dead_total": 1,
        "messaging_outbox_returned_total": 2,
        "messaging_outbox_unknown_total": 1,
        "messaging_outbox_claims_lost_total": 1,
        "messaging_dispatch_duplicates_avoided_total": 4,
        "messaging_outbox_claims_taken_over_total": 5,
        "messaging_dispatch_tick_duration_seconds_count": 2,
    }
    assert {name: value(metrics, name) for name in expected} == expected
    assert value(metrics, "messaging_dispatch_dlq_total", sink="postgres") == 1
    assert value(metrics, "messaging_outbox_pruned_total", table="message_outbox") == 6
    assert value(metrics, "messaging_outbox_pruned_total", table="message_dlq") == 7
    assert value(metrics, "messaging_dispatch_ticks_total", result="ok") == 1
    assert value(metrics, "messaging_dispatch_ticks_total", result="error") == 1
    assert value(metrics, "messaging_dispatch_tick_duration_seconds_bucket", le="1.5") == 1


def test_states_are_gauges(metrics):
    metrics(events.Started("a", enabled=True))
    metrics(events.DatabaseChanged(True, None))
    metrics(events.ListenerChanged(True, None))
    metrics(events.BreakerChanged("open", "OOM"))
    names = ("enabled", "database_up", "listener_up", "breaker_open", "redis_up")
    assert [value(metrics, f"messaging_dispatch_{name}") for name in names] == [1, 1, 1, 1, 0]
    metrics(events.BreakerChanged("closed", None))
    metrics(events.ListenerChanged(False, "gone"))
    assert [value(metrics, f"messaging_dispatch_{name}") for name in names] == [1, 1, 0, 0, 1]


def test_a_sample_sets_the_gauges_and_forgets_groups_that_are_gone(metrics):
    metrics(events.Sampled(5, 1.5, 0.25, 100, {"a": 3, "b": 4}))
    metrics(events.Sampled(6, 2.5, 0.5, 101, {"b": 7}))
    assert value(metrics, "messaging_outbox_backlog_rows") == 6
    assert value(metrics, "messaging_outbox_oldest_unsettled_age_seconds") == 2.5
    assert value(metrics, "messaging_postgres_notification_queue_usage_ratio") == 0.5
    assert value(metrics, "messaging_stream_length_entries") == 101
    assert value(metrics, "messaging_stream_group_lag_entries", group="b") == 7
    assert value(metrics, "messaging_stream_group_lag_entries", group="a") is None
    assert value(metrics, "messaging_dispatch_redis_up") == 1


def test_redis_is_up_once_it_answered_and_down_once_it_did_not(metrics):
    metrics(events.Sampled(0, 0, 0, 0, {}))
    assert value(metrics, "messaging_dispatch_redis_up") == 1
    metrics(events.Sampled(0, 0, 0, None, {}, "ConnectionError"))
    assert value(metrics, "messaging_dispatch_redis_up") == 0
    metrics(events.Published(1, [0.1], 0.1))
    assert value(metrics, "messaging_dispatch_redis_up") == 1


def test_a_sample_does_not_hide_an_open_breaker(metrics):
    metrics(events.BreakerChanged("open", "OOM"))
    metrics(events.Sampled(0, 0, 0, 5, {}))
    assert value(metrics, "messaging_dispatch_redis_up") == 0


def test_figures_of_a_lost_database_do_not_look_calm(metrics):
    metrics(events.Sampled(5, 1.5, 0.25, 100, {}))
    metrics(events.DatabaseChanged(False, "refused"))
    backlog = value(metrics, "messaging_outbox_backlog_rows")
    assert backlog is not None
    assert backlog != backlog  # NaN: neither above nor below any threshold


def test_two_in_one_process_do_not_share(metrics):
    Metrics()(events.Claimed(1, False))
    assert value(metrics, "messaging_outbox_picked_total") == 0


latencies = st.lists(st.floats(0, 1000) | st.sampled_from(EDGES))


@given(batches=st.lists(latencies, max_size=4))
def test_a_batch_counts_as_its_values_one_by_one(batches):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = LatencyHistogram("x", "x")
    ours.register(histogram)
    reference = Histogram("x", "x", buckets=EDGES, registry=theirs)
    for batch in batches:
        histogram.observe(batch)
        for seconds in batch:
            reference.observe(seconds)
    for sample in next(iter(theirs.collect())).samples:
        if sample.name.endswith(("_bucket", "_count", "_sum")):
            assert ours.get_sample_value(sample.name, sample.labels) == pytest.approx(sample.value)


def test_a_negative_latency_counts_as_none():
    histogram = LatencyHistogram("x", "x")
    histogram.observe([-5.0, 0.1])
    assert histogram.snapshot().sum_s == 0.1
    assert histogram.snapshot().counts[0] == 1


def test_quantiles_are_within_their_bucket():
    histogram = LatencyHistogram("x", "x")
    assert histogram.snapshot().quantile(0.5) is None
    rng = random.Random(7)
    values = sorted(rng.expovariate(100) for _ in range(10_000))
    histogram.observe(values)
    for q in (0.5, 0.95, 0.99):
        true, estimate = values[int(q * len(values))], histogram.snapshot().quantile(q)
        low = max((edge for edge in EDGES if edge < true), default=0.0)
        high = min(edge for edge in EDGES if edge >= true)
        assert estimate is not None
        assert low <= estimate <= high


def test_quantiles_beyond_the_last_edge_and_of_a_window():
    histogram = LatencyHistogram("x", "x")
    histogram.observe([0.0001] * 10)
    before = histogram.snapshot()
    histogram.observe([500.0])
    assert histogram.snapshot().since(before).quantile(0.5) == EDGES[-1]
    assert histogram.snapshot().since(before).sum_s == 500.0


def test_before_redis_was_asked_it_is_unknown_whether_a_loss_is_noticed() -> None:
    """With handlers only it never is: an alert on 0 would never end."""
    metrics = Metrics()
    assert isnan(metrics.registry.get_sample_value("messaging_dispatch_audit_on") or 0.0)
    metrics(events.AuditChanged(False, "NOPERM"))
    assert metrics.registry.get_sample_value("messaging_dispatch_audit_on") == 0


def test_a_figure_that_is_not_looked_up_any_more_is_unknown() -> None:
    now = 100.0
    metrics = Metrics(clock=lambda: now)
    value = metrics.registry.get_sample_value
    metrics(events.Sampled(500, 9.0, 0.1, 10, {"billing": 3}, dead=2))
    now += STALE_S
    assert value("messaging_outbox_backlog_rows") == 500
    now += 1.0
    unknown = (
        "messaging_outbox_backlog_rows",
        "messaging_outbox_oldest_unsettled_age_seconds",
        "messaging_outbox_dead_rows",
        "messaging_postgres_notification_queue_usage_ratio",
        "messaging_stream_length_entries",
        "messaging_dispatch_redis_up",
    )
    assert all(isnan(value(name) or 0.0) for name in unknown)
    assert value("messaging_stream_group_lag_entries", {"group": "billing"}) is None
    assert value("messaging_dispatch_sampled_timestamp_seconds")  # an alert asks how old they are
    metrics(events.Published(1, [0.1], 0.1))
    assert value("messaging_dispatch_redis_up") == 1
    metrics(events.Sampled(0, 0.0, 0.0, 11, {}))
    assert value("messaging_outbox_backlog_rows") == 0
