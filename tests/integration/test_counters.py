"""What an event costs in statements, rows, pages and WAL: no more than the committed baseline says."""

import json

import pytest

from bench.counters import BASELINE, GATES, compare, measure, quiet_rig
from bench.progress import Legs


@pytest.mark.timeout(400)
def test_an_event_costs_no_more_than_the_baseline() -> None:
    """Meant to be more? `python -m bench counters --renew` writes the baseline anew, and the diff says by how much."""
    for _ in range(3):  # on a machine that stands still, what looks around now and then comes between
        with quiet_rig() as servers, Legs(4) as legs:
            found, by_name = measure(servers, legs)
        missed = [target.text for target in compare(found, json.loads(BASELINE.read_text())) if not target.met]
        if not missed:
            return
    pytest.fail(f"{missed}: {by_name}")


def test_the_baseline_has_every_counter() -> None:
    assert list(json.loads(BASELINE.read_text())) == list(GATES)


@pytest.mark.parametrize("name", GATES)
def test_each_counter_can_fail(name: str) -> None:
    baseline = {each: gate.most or 10.0 for each, gate in GATES.items()}
    worse = baseline[name] * (0.5 if GATES[name].more_is_better else 2.0)
    assert [target.met for target in compare(baseline | {name: worse}, baseline)].count(False) == 1
