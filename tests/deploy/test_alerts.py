"""The alerts, by promtool: each fires on series that call for it, and on those alone.

A scenario is a healthy dispatcher with some series exchanged; it says every alert that fires in it, so each scenario is
a "must not" for all the other alerts. Samples come every 15 s; what goes wrong goes wrong after 20 minutes.
"""

import json
import re
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.telemetry.metrics import Metrics
from tests.reference_pages import alert_page
from tests.support.readme import ROOT, page
from tests.support.tools import tool

FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "alerts.yml"

OF_THE_RUNBOOK = {  # name: threshold, for, severity
    "DispatcherDown": ("== 0", "3m", "critical"),
    "DispatcherHighErrorRate": ("> 0.02", "3m", "critical"),
    "DispatcherHighLatency": ("> 1.5", "5m", "critical"),
    "DispatcherDLQGrowing": ("> 0", None, "critical"),
    "DispatcherHighRetries": ("> 0.05", "10m", "warning"),
}


def buckets(name: str, fast: str, slow: str) -> dict[str, str]:
    """A histogram of which `fast` are under 10 ms and `slow` between 1.5 and 2.5 s; both as counts of that bucket."""
    edges = {"0.01": fast, "1.5": fast, "2.5": slow, "+Inf": slow}
    return {f'{name}_bucket{{le="{edge}"}}': values for edge, values in edges.items()}


TICKS = "messaging_dispatch_ticks_total"
TICK_DURATION = "messaging_dispatch_tick_duration_seconds"
LATENCY = "messaging_dispatch_latency_seconds"
HEALTHY: dict[str, str] = {
    f'{TICKS}{{result="ok"}}': "0+150x240",
    f'{TICKS}{{result="error"}}': "0x240",
    **buckets(TICK_DURATION, "0+150x240", "0+150x240"),
    **buckets(LATENCY, "0+100x240", "0+100x240"),
    "messaging_outbox_picked_total": "0+100x240",
    "messaging_outbox_failed_total": "0+1x240",
    "messaging_outbox_dead_total": "0x240",
    "messaging_outbox_dead_rows": "0x240",
    "messaging_dispatch_worker_restarts_total": "0x240",
    "messaging_dispatch_republished_total": "0x240",
    "messaging_dispatch_enabled": "1x240",
    "messaging_dispatch_redis_up": "1x240",
    "messaging_dispatch_listener_up": "1x240",
    "messaging_dispatch_paused": "0x240",
    "messaging_dispatch_handlers_stuck": "0x240",
    "messaging_dispatch_audit_on": "1x240",
    "messaging_dispatch_breaker_open": "0x240",
    "messaging_dispatch_shards_away": "0x240",
    "messaging_dispatch_slots_owned": "256x240",
    "messaging_dispatch_layout_differs": "0x240",
    "messaging_dispatch_backpressure_on": "0x240",
    "messaging_outbox_oldest_unsettled_age_seconds": "0.1x240",
    "messaging_postgres_notification_queue_usage_ratio": "0x240",
    'messaging_stream_group_lag_entries{group="billing"}': "10x240",
    'messaging_stream_group_lag_entries{group="mail"}': "0x240",
    'messaging_stream_group_read_age_seconds{group="billing"}': "1x240",
    'messaging_stream_group_read_age_seconds{group="mail"}': "9999999x240",
    "messaging_stream_maxlen_entries": "1000000x240",
    "messaging_dispatch_sampled_timestamp_seconds": "0+15x240",
}
DB_GONE = {
    "messaging_outbox_oldest_unsettled_age_seconds": "0.1x80 _x160",
    "messaging_postgres_notification_queue_usage_ratio": "0x80 _x160",
    "messaging_dispatch_sampled_timestamp_seconds": "0+15x80 1200x160",
}

GONE = {series: values.replace("240", "80") + " stale" for series, values in HEALTHY.items()}
YOUNG = {series: f"_x100 {values.replace('240', '140')}" for series, values in HEALTHY.items()} | {
    "messaging_dispatch_sampled_timestamp_seconds": "_x100 1500+15x140"
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is otherwise than in a healthy dispatcher (None: the series is not there), and what fires `at` a time.

    An instance is "pod" or "job/pod".
    """

    name: str
    change: Mapping[str, str | None]
    fires: set[str] = field(default_factory=set)
    at: str = "30m"
    not_yet: str | None = None  # when nothing fires yet, though it is bad enough already
    instances: tuple[str, ...] = ("a",)  # the change is the first one's; the others are healthy


DOWN = {
    f'{TICKS}{{result="ok"}}': "0+150x80 12000x160",
    **buckets(TICK_DURATION, "0+150x80 12000x160", "0+150x80 12000x160"),
    **buckets(LATENCY, "0+100x80 8000x160", "0+100x80 8000x160"),
    "messaging_outbox_picked_total": "0+100x80 8000x160",
    "messaging_outbox_failed_total": "0+1x80 80x160",
}
SCENARIOS = [
    Scenario("healthy", {}),
    Scenario("healthy, two of them", {}, instances=("a", "b")),
    Scenario("it stopped ticking", {**DOWN}, {"DispatcherDown"}, not_yet="23m"),
    Scenario("it stopped ticking two minutes ago", {**DOWN}, at="22m"),
    Scenario("one of two stopped ticking", {**DOWN}, {"DispatcherDown"}, instances=("a", "b")),
    Scenario("one of two is disabled", {**DOWN, "messaging_dispatch_enabled": "0x240"}, instances=("a", "b")),
    Scenario("all are disabled", {**DOWN, "messaging_dispatch_enabled": "0x240"}, {"DispatcherDown"}),
    Scenario("none is there", dict.fromkeys(HEALTHY), {"DispatcherDown"}),
    Scenario("all vanished", GONE, {"DispatcherDown"}),
    Scenario("all of production vanished, staging lives", GONE, {"DispatcherDown"},
             instances=("production/a", "staging/b"), not_yet="22m"),
    Scenario("one of two pods was replaced", GONE, instances=("a", "b")),
    Scenario("only errors, as in an outage", {
        f'{TICKS}{{result="ok"}}': "0+150x80 12000x160", f'{TICKS}{{result="error"}}': "0x80 0+30x160",
    }, {"DispatcherHighErrorRate"}, not_yet="22m"),
    Scenario("3 % of the ticks fail", {f'{TICKS}{{result="error"}}': "0x80 0+5x160"}, {"DispatcherHighErrorRate"}),
    Scenario("1 % of the ticks fail", {f'{TICKS}{{result="error"}}': "0x80 0+1x160"}),
    Scenario("one of two fails", {f'{TICKS}{{result="error"}}': "0x80 0+5x160"}, {"DispatcherHighErrorRate"},
             instances=("a", "b")),
    Scenario("10 % of the turns take over 1.5 s", buckets(TICK_DURATION, "0+150x80 12000+135x160", "0+150x240"),
             {"DispatcherHighLatency"}, not_yet="24m"),
    Scenario("3 % of the turns take over 1.5 s", buckets(TICK_DURATION, "0+146x240", "0+150x240")),
    Scenario("10 % of the events take over 1.5 s", buckets(LATENCY, "0+100x80 8000+90x160", "0+100x240"),
             {"DispatcherEndToEndLatencyHigh"}, not_yet="24m"),
    Scenario("3 % of the events take over 1.5 s", buckets(LATENCY, "0+97x240", "0+100x240")),
    Scenario("a row was buried", {"messaging_outbox_dead_total": "0x110 1x130"}, {"DispatcherDLQGrowing"}),
    Scenario("a row was buried long ago", {"messaging_outbox_dead_total": "0x40 1x200"}),
    Scenario("a row was buried before the first look", {"messaging_outbox_dead_total": "_x110 1x130"},
             {"DispatcherDLQGrowing"}),
    Scenario("a row was buried long ago, and Prometheus saw nothing for half an hour",
             {"messaging_outbox_dead_total": "1x40 _x70 1x130"}),
    Scenario("a row was buried while Prometheus saw nothing",
             {"messaging_outbox_dead_total": "1x40 _x70 2x130"}, {"DispatcherDLQGrowing"}),
    Scenario("dead events are left", {"messaging_outbox_dead_rows": "0x80 5x160"}, {"DispatcherDeadEventsLeft"},
             at="55m", not_yet="45m"),
    Scenario("dead events were retried", {"messaging_outbox_dead_rows": "0x80 5x100 0x60"}, at="55m"),
    Scenario("an aggregate is held", {"messaging_outbox_held_aggregates": "0x80 1x160",
                                      "messaging_outbox_oldest_held_aggregate_seconds": "0x80 0+15x160"},
             {"DispatcherHeldAggregates"}, at="35m", not_yet="30m"),
    Scenario("an aggregate was held for five minutes",
             {"messaging_outbox_oldest_held_aggregate_seconds": "0x80 0+15x20 0x140"}, at="35m"),
    Scenario("there is no order", {"messaging_outbox_oldest_held_aggregate_seconds": None}),
    Scenario("workers end again and again", {"messaging_dispatch_worker_restarts_total": "0x80 0+2x160"},
             {"DispatcherRestarting"}),
    Scenario("two workers ended", {"messaging_dispatch_worker_restarts_total": "0x100 2x140"}),
    Scenario("the process starts again and again", {
        f'{TICKS}{{result="ok"}}': "0+150x80" + " 0+150x5" * 26,
    }, {"DispatcherRestarting"}),
    Scenario("8 % of the rows fail", {"messaging_outbox_failed_total": "0+1x80 80+8x160"},
             {"DispatcherHighRetries"}, at="35m", not_yet="29m"),
    Scenario("6 % failed for a moment", {"messaging_outbox_failed_total": "0+1x110 0+6x10 0+1x120"}),
    Scenario("an event waits", {"messaging_outbox_oldest_unsettled_age_seconds": "0.1x80 0+15x160"},
             {"DispatcherOutboxStuck"}, not_yet="22m"),
    Scenario("an event waits a little", {"messaging_outbox_oldest_unsettled_age_seconds": "30x240"}),
    Scenario("Redis is away", {"messaging_dispatch_breaker_open": "0x80 1x160",
                               "messaging_dispatch_redis_up": "1x80 0x160",
                               "messaging_dispatch_audit_on": "1x80 0x160"}, {"DispatcherBreakerOpen"}, not_yet="20m"),
    Scenario("Redis was away for half a minute", {"messaging_dispatch_breaker_open": "0x117 1x2 0x121"}),
    Scenario("a node of a Cluster is away", {"messaging_dispatch_breaker_open": "0x80 1x160",
                                             "messaging_dispatch_shards_away": "0x80 3x160"},
             {"DispatcherShardsAway"}, not_yet="20m"),
    Scenario("a replica was promoted within half a minute", {"messaging_dispatch_breaker_open": "0x117 1x2 0x121",
                                                             "messaging_dispatch_shards_away": "0x117 3x2 0x121"}),
    Scenario("slots have no owner", {"messaging_dispatch_slots_owned": "256x80 200x160"},
             {"DispatcherSlotsWithoutOwner"}, not_yet="22m"),
    Scenario("slots had no owner while one was fenced", {"messaging_dispatch_slots_owned": "256x115 128x4 256x121"}),
    Scenario("without an order", {"messaging_dispatch_slots_owned": None}),
    Scenario("all have another layout than stands", {"messaging_dispatch_slots_owned": "256x80 0x160",
                                                     "messaging_dispatch_layout_differs": "0x80 1x160"},
             {"DispatcherSlotsWithoutOwner"}, not_yet="22m"),
    Scenario("an order is about to be kept, and one without publishes", {
        "messaging_dispatch_slots_owned": "0x240", "messaging_dispatch_layout_differs": "1x240",
        'messaging_dispatch_layout_differs{pod="without"}': "0x240",
    }),
    Scenario("a group is too slow", {"messaging_dispatch_backpressure_on": "0x80 1x160"},
             {"DispatcherBackpressure"}, not_yet="22m"),
    Scenario("a group is too slow, on and off", {"messaging_dispatch_backpressure_on": "0x80" + " 1x1 0x1" * 40},
             {"DispatcherBackpressure"}),
    Scenario("a group was too slow", {"messaging_dispatch_backpressure_on": "0x100 1x4 0x136"}),
    Scenario("it is deaf", {"messaging_dispatch_listener_up": "1x80 0x160"}, {"DispatcherListenerDeaf"}, not_yet="22m"),
    Scenario("it was deaf for a minute", {"messaging_dispatch_listener_up": "1x114 0x4 1x122"}),
    Scenario("it is disabled and so hears nothing",
             {"messaging_dispatch_enabled": "0x240", "messaging_dispatch_listener_up": "0x240",
              "messaging_dispatch_audit_on": "0x240"}),
    Scenario("it has just started", YOUNG),
    Scenario("Redis lost entries", {"messaging_dispatch_republished_total": "0x110 12x130"},
             {"DispatcherRepublishedAfterLoss"}),
    Scenario("Redis lost entries before the first look", {"messaging_dispatch_republished_total": "_x110 12x130"},
             {"DispatcherRepublishedAfterLoss"}),
    Scenario("Redis lost entries long ago", {"messaging_dispatch_republished_total": "0x40 12x200"}),
    Scenario("Redis lost entries long ago, and Prometheus saw nothing for half an hour",
             {"messaging_dispatch_republished_total": "12x40 _x70 12x130"}),
    Scenario("Redis may not be asked", {"messaging_dispatch_audit_on": "1x80 0x160"},
             {"DispatcherLossUnnoticed"}, not_yet="24m"),
    Scenario("Redis was not asked yet, or there is none", {"messaging_dispatch_audit_on": None}),
    Scenario("Redis could not be asked for a minute", {"messaging_dispatch_audit_on": "1x114 0x4 1x122"}),
    Scenario("the notification queue fills up", {"messaging_postgres_notification_queue_usage_ratio": "0x80 0.3x160"},
             {"DispatcherNotificationQueueFilling"}, not_yet="24m"),
    Scenario("the notification queue is used", {"messaging_postgres_notification_queue_usage_ratio": "0.1x240"}),
    Scenario("a group lags near MAXLEN", {'messaging_stream_group_lag_entries{group="billing"}': "0x80 750000x160"},
             {"DispatcherGroupLagNearMaxlen"}, not_yet="24m"),
    Scenario("a group that is exempt lags", {'messaging_stream_group_lag_entries{group="web"}': "0x80 750000x160"}),
    Scenario("a group lags", {'messaging_stream_group_lag_entries{group="billing"}': "0x80 600000x160"}),
    Scenario("nobody reads a group", {'messaging_stream_group_read_age_seconds{group="billing"}': "0x80 0+15x160",
                                      'messaging_stream_group_lag_entries{group="billing"}': "7x240"},
             {"DispatcherGroupNotRead"}, at="55m", not_yet="45m"),
    Scenario("nobody reads a group that has read all",
             {'messaging_stream_group_read_age_seconds{group="billing"}': "9999x240",
              'messaging_stream_group_lag_entries{group="billing"}': "0x240"}),
    Scenario("nobody reads a group of a stream where it has read all",
             {'messaging_stream_group_read_age_seconds{group="shop",stream="idle"}': "9999x240",
              'messaging_stream_group_lag_entries{group="shop",stream="idle"}': "0x240",
              'messaging_stream_group_read_age_seconds{group="shop",stream="busy"}': "1x240",
              'messaging_stream_group_lag_entries{group="shop",stream="busy"}': "7x240"}),
    Scenario("a handler never ends", {"messaging_dispatch_handlers_stuck": "0x80 1x160"}, {"DispatcherHandlersStuck"},
             not_yet="24m"),
    Scenario("paused and forgotten", {"messaging_dispatch_paused": "0x80 1x160"}, {"DispatcherPaused"}, at="55m",
             not_yet="45m"),
    Scenario("Postgres is away", {**DB_GONE}, {"DispatcherGaugesStale"}, not_yet="24m"),
    Scenario("Postgres was away for two minutes", {"messaging_dispatch_sampled_timestamp_seconds": "0+15x112 1680x8"},
             at="29m45s"),
]  # fmt: skip


def rules() -> list[dict[str, Any]]:
    """Every rule of the file."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def labelled(series: str, instance: str) -> str:
    """The series as it comes from a process."""
    name, _, labels = series.rstrip("}").partition("{")
    job, _, pod = instance.rpartition("/")
    inside = ",".join(filter(None, [labels, f'job="{job or "dispatcher"}"', f'instance="{pod}"']))
    return f"{name}{{{inside}}}"


def as_promtool_has_it(scenario: Scenario) -> dict[str, Any]:
    """A test group of promtool: the series, and every alert that fires."""
    series = {}
    for number, instance in enumerate(scenario.instances):
        for name, values in {**HEALTHY, **(scenario.change if number == 0 else {})}.items():
            if values is not None:
                series[labelled(name, instance)] = values
    firing = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"}) > bool 0',
        "eval_time": scenario.at,
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(scenario.fires)],
    }
    patient = [{**firing, "eval_time": scenario.not_yet, "exp_samples": []}] if scenario.not_yet else []
    return {
        "name": scenario.name,
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [*patient, firing],
    }


def promtool(*arguments: object) -> str:
    """Run it; what it wrote. Fails when it does."""
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_promtool_takes_the_files() -> None:
    promtool("check", "rules", RULES)
    promtool("check", "config", FOLDER / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "alerts_test.yml"
    groups = [as_promtool_has_it(scenario) for scenario in SCENARIOS]
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": groups}))
    assert "SUCCESS" in promtool("test", "rules", file)


def test_every_alert_has_a_scenario() -> None:
    assert set().union(*(scenario.fires for scenario in SCENARIOS)) == {rule["alert"] for rule in rules()}


def test_a_scenario_that_expects_too_little_is_red(tmp_path: Path) -> None:
    group = as_promtool_has_it(Scenario("it stopped ticking, and nobody notices", {**DOWN}))
    file = tmp_path / "alerts_test.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [group]}))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", file)


def test_the_words_of_an_alert(tmp_path: Path) -> None:
    """Templates are filled in: of one dispatcher, and of all."""
    group = as_promtool_has_it(Scenario("none is there", dict.fromkeys(HEALTHY)))
    group |= {"promql_expr_test": []}
    words = {rule["alert"]: rule["annotations"] for rule in rules()}["DispatcherDown"]
    described = "All dispatchers are stopped, frozen or disabled: committed events wait in the outbox."
    group["alert_rule_test"] = [
        {
            "eval_time": "10m",
            "alertname": "DispatcherDown",
            "exp_alerts": [
                {"exp_labels": {"severity": "critical"}, "exp_annotations": {**words, "description": described}}
            ],
        }
    ]
    file = tmp_path / "alerts_test.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [group]}))
    promtool("test", "rules", file)


def test_the_runbooks_alerts_keep_their_thresholds() -> None:
    found = {rule["alert"]: rule for rule in rules()}
    for name, (threshold, patience, severity) in OF_THE_RUNBOOK.items():
        assert threshold in found[name]["expr"]
        assert (found[name].get("for"), found[name]["labels"]["severity"]) == (patience, severity)


def test_the_queries_of_the_reference(tmp_path: Path) -> None:
    queries = re.findall(r"^```promql\n(.*?)^```$", page("reference/metrics.md"), re.MULTILINE | re.DOTALL)
    assert len(queries) > 5
    named = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": named}]}))
    promtool("check", "rules", file)
    assert set(re.findall(r"\bmessaging_\w+", " ".join(queries))) <= exported()


def exported() -> set[str]:
    """The names of all series."""
    found = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    # A series for each group, once there is one.
    return found | {"messaging_stream_group_lag_entries", "messaging_stream_group_read_age_seconds"}


def test_alerts_ask_for_metrics_that_are_there() -> None:
    for rule in rules():
        asked = set(re.findall(r"\bmessaging_\w+", rule["expr"]))
        assert asked, rule["alert"]
        assert asked <= exported(), rule["alert"]


def test_every_alert_leads_to_what_to_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = f"{project['urls']['Repository']}/blob/main/docs/runbook/"
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == base + alert_page(rule["alert"])
        text = (ROOT / "docs" / "runbook" / alert_page(rule["alert"])).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert headings[0] == rule["alert"]
        wanted = {"What you see", "What it means", "What to do", "It is over when", "Why"}
        assert wanted <= set(headings), f"{alert_page(rule['alert'])} lacks {wanted - set(headings)}"
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
