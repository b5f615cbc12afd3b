"""The arithmetic of the benchmarks: what they conclude from what they measured, and what they write."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import sla
from bench.__main__ import bench
from bench.backlog import WorkedOff
from bench.charts import Chart
from bench.cluster import Outage, judged, latencies
from bench.document import render
from bench.latency import WANTED
from bench.outage import recovery
from bench.peers_found import OURS, Found
from bench.peers_found import judged as judged_peers
from bench.record import STEPS, combine
from bench.report import Report, Target, above, below, body, complete
from bench.rivals import RIVALS, node
from bench.shards import Leg, table, targets
from bench.sla import Held
from bench.steady import by_second, quantile
from bench.writers import NAMES, _judge
from dispatcher.demo.histogram import Histogram
from dispatcher.demo.measure import Measurement
from dispatcher.demo.messages import ProducerDone
from dispatcher.demo.tally import Tally

SECOND = 1_000_000_000


def measurement(rate: int, latency_ms: list[float], *, late_s: float = 0.0) -> Measurement:
    """A run at that rate whose events of second n took `latency_ms[n]`."""
    tally = Tally(trace=True)
    for second, ms in enumerate(latency_ms):
        for number in range(rate):
            moment = second * SECOND + number * SECOND // rate
            name = b"%d-%d" % (second, number)
            tally.add_committed([(moment, name)])
            tally.add_received([(moment + int(ms * 1e6), [name])])
    events = rate * len(latency_ms)
    return Measurement(tally, ProducerDone(events, events, 0, float(len(latency_ms)), late_s))


def test_a_limit_belongs_to_the_good_side() -> None:
    assert [below("x", value, 1.0).met for value in (0.9, 1.0, 1.1)] == [True, True, False]
    assert [above("x", value, 1.0).met for value in (0.9, 1.0, 1.1)] == [False, True, True]
    assert complete("x", 0, 0).met
    assert not complete("x", 1, 0).met
    assert not complete("x", 0, 1).met


def test_a_rate_is_held_or_it_is_not() -> None:
    steady = [2.0] * 9
    assert Held(100, measurement(100, steady)).kept
    assert not Held(100, measurement(100, [2000.0] * 9)).kept
    assert not Held(100, measurement(100, steady), errors=0.03).kept
    assert not Held(100, None).kept


def test_a_rate_that_falls_behind_is_not_held_though_its_p95_is_fine_so_far() -> None:
    growing = Held(100, measurement(100, [50.0 * second for second in range(12)]))
    assert growing.measured is not None
    assert growing.measured.tally.quantile_ms(0.95) < sla.P95_MS
    assert growing.falls_behind
    assert not growing.kept


def test_a_load_that_was_not_produced_holds_nothing() -> None:
    assert Held(100, measurement(100, [2.0] * 9, late_s=2.0)).load_gave_way
    assert Held(200, measurement(100, [2.0] * 9)).load_gave_way
    assert not Held(100, measurement(100, [2.0] * 9)).load_gave_way


def test_latency_by_second_of_commit() -> None:
    assert by_second(measurement(10, [1.0, 5.0])) == [(0.0, 1.0), (1.0, 5.0)]
    assert [quantile([1, 2, 3, 4], q) for q in (0.0, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]


def test_recovery_from_an_outage() -> None:
    went, came = 10 * SECOND, 40 * SECOND
    before = [(9 * SECOND, 9 * SECOND + 1)]
    stuck = [(11 * SECOND, came + SECOND // 2), (39 * SECOND, came + 2 * SECOND)]
    late = [(came + SECOND // 2, came + 4 * SECOND), (came + 2 * SECOND, came + 2 * SECOND + 1)]
    found = recovery([*before, *stuck, *late], went, came)
    assert (found.first_s, found.drained_s, found.under_sla_s) == (0.5, 2.0, 1.0)


def test_the_other_shards_are_judged_while_a_node_is_away() -> None:
    went, came = 10 * SECOND, 14 * SECOND
    outage = Outage(Any, "killed", 10.0, 4.0, shards=(1,), began_ns=went, certain_ns=went)  # type: ignore[arg-type]
    moments = {
        b"before": (5 * SECOND, 5 * SECOND + 1_000_000),
        b"late": (11 * SECOND, came),
        b"later": (12 * SECOND, came + SECOND),
        b"other": (12 * SECOND, 12 * SECOND + 3_000_000),
        b"after": (came + SECOND, came + SECOND + 9_000_000),
    }
    shards = {b"before": 1, b"late": 1, b"later": 1, b"other": 0, b"after": 0}
    found = latencies(moments, shards, outage)
    assert found.seconds == 4.0
    assert (found.before.count, found.there.count, found.others.count) == (1, 2, 1)
    assert found.there.maximum == 3 * SECOND
    assert [target.met for target in judged("killed", found, 0, 0)] == [True, True]
    assert [target.met for target in judged("killed", found, 1, 0)] == [False, True]
    found.others.record(SECOND)
    assert [target.met for target in judged("killed", found, 0, 0)] == [True, False]
    found.others = Histogram()  # an outage that nobody saw proves nothing
    assert [target.met for target in judged("killed", found, 0, 0)] == [True, False]


def test_shards_are_compared_with_one_shard_at_the_same_place() -> None:
    def worked_off(per_second: float) -> WorkedOff:
        return WorkedOff(1000, per_second, 1.0, 0.01, 0.0, {}, 0, 0, 0)

    found = {
        Leg("1", 1): [worked_off(100.0), worked_off(200.0)],
        Leg("1", 8): [worked_off(144.0)],
        Leg("3", 1): [worked_off(50.0)],
        Leg("3", 8): [worked_off(10.0)],
    }
    assert [(each["on"], each["shards"], each["of 1 shard"]) for each in table(found)] == [
        ("one server", "1", "1.00"),
        ("one server", "8", "0.96"),
        ("three nodes", "1", "1.00"),
        ("three nodes", "8", "0.20"),
    ]
    assert [target.met for target in targets(found)] == [True, True]
    found[Leg("1", 8)] = [worked_off(142.0)]
    assert [target.met for target in targets(found)] == [True, False]


def test_the_writers_verdict_is_that_of_the_promised_count() -> None:
    rates = {(count, leg): [1000.0, 1000.0] for count in (8, 32) for leg in NAMES}
    rates[8, "doorbell"] = [100.0, 100.0]
    report = Report("writers", {}, [], [])
    _judge(report, rates)
    assert [target.met for target in report.targets] == [True, True, True]
    rates[32, "doorbell"] = [900.0, 940.0]
    _judge(report, rates)
    assert [target.met for target in report.targets] == [False, True, True]
    rates[32, "plain"] = [1300.0, 1300.0]  # of which those without a dispatcher keep 77 %
    _judge(report, rates)
    assert [target.met for target in report.targets] == [False, False, True]
    rates[32, "plain"] = [1600.0, 1600.0]
    _judge(report, rates)
    assert [target.met for target in report.targets] == [False, False, False]
    assert report.rows[-1]["of the plain table"] == "100.0%"
    assert len(report.rows) == 2 * len(NAMES)


def test_a_report_says_what_was_missed(tmp_path: Path) -> None:
    chart = Chart("rate", "Rate", "", "events/s", {"ours": [("a", 1.0)]}, kind="bars")
    report = Report("x", {}, [{"a": "1", "b": "2"}], [Target("good", True), Target("bad", False)], charts=[chart])
    assert not report.met
    saved = json.loads(json.dumps(report.as_dict()))
    assert body(saved)[:2] == ["- met: good", "- **missed**: bad"]
    assert "| 1 | 2 |" in body(saved)
    assert Chart.from_dict(saved["charts"][0]) == chart


def saved_run() -> dict[str, Any]:
    report = Report("latency", {}, [{"p50": "1"}], [Target("good", True)], environment={"cpu": "a small one"})
    return {"outcomes": {"latency": "met"}, "scenarios": {"latency": report.as_dict()}}


def test_the_document_is_filled_between_its_marks_and_only_there(tmp_path: Path) -> None:
    text = "A\n<!-- bench:latency -->\nold\n<!-- bench:end -->\nB\n<!-- bench:drain -->\nkept\n<!-- bench:end -->\n"
    text += "<!-- bench:machine -->\n<!-- bench:end -->\n"
    once = render(text, saved_run(), tmp_path)
    assert "old" not in once
    assert "- met: good" in once
    assert "kept" in once
    assert "- cpu: a small one" in once
    assert once.startswith("A\n<!-- bench:latency -->\n")
    assert render(once, saved_run(), tmp_path) == once


def test_the_document_has_a_place_for_every_scenario_of_the_record() -> None:
    document = (Path(__file__).parent.parent.parent / "docs" / "explanation" / "performance.md").read_text()
    assert [step.scenario for step in STEPS if f"<!-- bench:{step.scenario} -->" not in document] == []


def test_the_record_survives_a_scenario_that_failed(tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text(json.dumps(saved_run()["scenarios"]["latency"]))
    combine(tmp_path, {"latency": "met, 3 s", "drain": "failed with exit code 1, 2 s"})
    text = (tmp_path / "README.md").read_text()
    assert "| drain | failed with exit code 1, 2 s |" in text
    assert "## latency" in text
    assert list(json.loads((tmp_path / "report.json").read_text())["scenarios"]) == ["latency"]


@pytest.mark.parametrize("rate", WANTED)
def test_the_targets_of_latency_are_ordered(rate: float) -> None:
    limits = [ms for _, ms in sorted(WANTED[rate].items())]
    assert limits == sorted(limits)


def test_the_help_says_what_each_scenario_measures_to_the_end() -> None:
    listed = " ".join(CliRunner().invoke(bench, ["--help"]).output.split())
    for scenario in bench.commands.values():
        assert scenario.get_short_help_str(limit=500) in listed


@pytest.mark.parametrize(
    ("said", "why"), [("v20.20.2", "v20.20.2 is too old"), (None, "no Node.js here"), ("v22.18.0", None)]
)
def test_peers_on_node_are_left_out_aloud(
    said: str | None, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        program = tmp_path / "node"
        program.write_text(f"#!/bin/sh\necho {said}\n", encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = node.problem()
    assert problem is None if why is None else why in (problem or "")


def test_a_peer_that_fell_behind_is_no_best_one() -> None:
    ours = Found([1600.0], [0.01], [0.01], {50.0: [(1.0, 2.0), (3.0, 4.0)]})
    best, slow = Found([1000.0], [0.01], [0.01], {50.0: [(1.5, 9.0)]}), Found([10.0], [1.0], [1.0])
    targets = judged_peers({OURS: ours, "best": best, "slow": slow})
    assert [target.text for target in targets] == [
        "ours: 0 lost, 0 doubled, wanted none",
        "1.60 times the backlog rate of the best peer (best), wanted ≥ 1.6",
        "50/s: p50 2.00 ms, the best peer's 1.50",
        "50/s: p99 3.00 ms, the best peer's 9.00",
    ]
    assert [target.met for target in targets] == [True, True, False, True]
    assert slow.row("slow")["500/s p50 ms"] == "fell behind"
    assert {"graphile-worker", "pg-boss"} <= {*RIVALS}
