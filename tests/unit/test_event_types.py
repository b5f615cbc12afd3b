"""Rates and latencies by event type: bounded in number, whatever others call their events."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from dispatcher.telemetry.event_types import MOST, OTHERS, EventTypes


def of(*batches: tuple[list[str], list[float]]) -> EventTypes:
    types = EventTypes("x_seconds", "x")
    for names, ages in batches:
        types.observe(names, ages)
    return types


def test_a_batch_is_sorted_out():
    found = of((["a", "b", "a"], [0.002, 3.0, 0.004]), (["b", "b"], [0.1, 0.2])).snapshot()
    assert {name: latencies.total for name, latencies in found.items()} == {OTHERS: 0, "a": 2, "b": 3}
    assert found["b"].sum_s == pytest.approx(3.3)


def test_types_that_come_late_share_a_series():
    names = [f"type-{number}" for number in range(10_000)]
    found = of((names, [0.001] * len(names)), (["type-3"], [0.001])).snapshot()
    assert len(found) == MOST + 1
    assert found[OTHERS].total + sum(found[name].total for name in found if name != OTHERS) == 10_001


def test_the_metric_counts_below_each_edge():
    registry = CollectorRegistry()
    registry.register(of((["a", "a", "a"], [0.01, 0.4, 99.0])))
    page = generate_latest(registry).decode()
    counts = {
        edge: float(line.rpartition(" ")[2])
        for line in page.splitlines()
        for edge in ("0.01", "0.1", "0.5", "1.5", "10.0", "+Inf")
        if line.startswith(f'x_seconds_bucket{{event_type="a",le="{edge}"}}')
    }
    assert counts == {"0.01": 1, "0.1": 1, "0.5": 2, "1.5": 2, "10.0": 2, "+Inf": 3}
    assert 'x_seconds_count{event_type="other"} 0.0' in page  # there from the start
