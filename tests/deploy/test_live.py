"""What a real Prometheus sees of a real dispatcher: the runbook's metrics, its PromQL, our dashboard and our alerts.

One dispatcher for all tests here: it relays, buries a row, and lives through an outage of Redis, watched all the time.
"""

import asyncio
import json
import math
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from redis.asyncio import Redis

from dispatcher.embedded import EmbeddedValkey
from tests.support.child import start_child
from tests.support.fetched import redis_of
from tests.support.options import server_options
from tests.support.postgres import Databases
from tests.support.prometheus import Prometheus, PrometheusFailed, Sample, run_prometheus
from tests.support.readme import ROOT
from tests.support.rows import STREAM, insert_events

RUNBOOK = ROOT.parent / "shared" / "seeds" / "dispatcher-runbook.md"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "dispatcher.json"
GRAFANA_FILLS_IN = {"$job": ".*", "$instance": ".*", "$stream": ".*", "$__rate_interval": "1m", "$__range": "5m"}

FIRST, MORE, HANDLED = 300, 50, 1
MAX_PAYLOAD = 2000
TICKS_OK = 'messaging_dispatch_ticks_total{result="ok"}'
TICKS_ERROR = 'messaging_dispatch_ticks_total{result="error"}'


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that watched, and the values of the runbook's metrics at four moments."""

    prometheus: Prometheus
    idle: dict[str, float]
    relayed: dict[str, float]
    buried: dict[str, float]
    outage: dict[str, float]
    over: dict[str, float]
    panels: dict[tuple[str, str], list[Sample]]  # what each query of the dashboard found before the outage


@pytest.fixture(scope="module")
async def seen(
    databases_of: Callable[[str], Databases],
    server_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> AsyncIterator[Seen]:
    options = server_options(pytestconfig)
    databases = databases_of(options.postgres_names[0])
    name = await asyncio.to_thread(databases.clone)
    kept = {"appendfsync": "always"}  # or its restart could lose what it had
    # A folder of this time only: where tests move between workers this may begin a second time in one of them.
    data = Path(tempfile.mkdtemp(prefix="live-valkey-", dir=server_folder))
    valkey = redis_of(options.redis)(data, appendonly=True, options=kept)
    await asyncio.to_thread(valkey.start)
    async with Redis.from_url(valkey.url) as redis:
        await redis.xgroup_create(STREAM, "billing", "0", mkstream=True)
    modules = tmp_path_factory.mktemp("handlers")
    (modules / "live_handlers.py").write_text('HANDLERS = {"live.handled": lambda payload: None}\n')
    child = await start_child(
        "run",
        cwd=modules,
        env={
            "DATABASE_URL": databases.url(name),
            "REDIS_URL": valkey.url,
            "DISPATCHER_ENABLED": "true",
            "DISPATCH_HANDLERS": "live_handlers",
            "DISPATCH_MAX_PAYLOAD_BYTES": str(MAX_PAYLOAD),
        },
    )
    try:
        await child.ready()
        rules = [ROOT / "deploy" / "prometheus" / "alerts.yml"]
        folder = tmp_path_factory.mktemp("prometheus")
        async with (
            run_prometheus(folder, child.http_url, rules=rules) as prometheus,
            await psycopg.AsyncConnection.connect(databases.url(name), autocommit=True) as db,
        ):
            yield await live_through(prometheus, db, valkey)
    finally:
        await child.kill()
        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(databases.drop, name)


async def live_through(prometheus: Prometheus, db: psycopg.AsyncConnection[Any], valkey: EmbeddedValkey) -> Seen:
    """Load, a row that is buried, an outage of Redis and its end."""
    await prometheus.until(f"{TICKS_OK} > 0")
    idle = await values(prometheus)
    await insert_events(db, FIRST)
    await prometheus.until(f"messaging_outbox_sent_total == {FIRST}")
    relayed = await values(prometheus)
    await insert_events(db, 1, payload=json.dumps({"text": "x" * MAX_PAYLOAD}))
    await prometheus.until("messaging_outbox_dead_total == 1")
    buried = await values(prometheus)
    await insert_events(db, 1, event_type="live.handled")
    await prometheus.until('messaging_dispatch_handled_total{result="done"} == 1')
    await prometheus.until("count_over_time(messaging_dispatch_enabled[1m]) >= 3")  # enough for any rate
    panels = {(title, query): await prometheus.soon(filled_in(query)) for title, query in panel_queries()}
    await asyncio.to_thread(valkey.crash)
    await insert_events(db, MORE)
    await prometheus.until("messaging_dispatch_breaker_open == 1")
    await prometheus.until(f"{TICKS_ERROR} > {buried[TICKS_ERROR] + 3}")
    outage = await values(prometheus)
    await asyncio.to_thread(valkey.start)
    await prometheus.until(
        f"messaging_outbox_sent_total == {FIRST + MORE + HANDLED} and messaging_dispatch_breaker_open == 0"
    )
    return Seen(prometheus, idle, relayed, buried, outage, await values(prometheus), panels)


def panel_queries() -> set[tuple[str, str]]:
    """Title and query of everything on the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return {(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])}


def filled_in(query: str) -> str:
    """The query as Grafana sends it."""
    for variable, value in GRAFANA_FILLS_IN.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


async def values(prometheus: Prometheus) -> dict[str, float]:
    """Every counter of the runbook, as Prometheus has it now."""
    names = [
        TICKS_OK,
        TICKS_ERROR,
        'messaging_dispatch_dlq_total{sink="postgres"}',
        "messaging_dispatch_published_total",
    ]
    names += [f"messaging_outbox_{what}_total" for what in ("picked", "sent", "failed", "dead")]
    names += ["messaging_dispatch_tick_duration_seconds_count"]
    return {name: await prometheus.value(name) for name in names}


async def test_an_idle_dispatcher_ticks_and_nothing_else(seen: Seen) -> None:
    assert seen.idle.pop(TICKS_OK) > 0
    assert seen.idle.pop("messaging_dispatch_tick_duration_seconds_count") > 0
    assert set(seen.idle.values()) == {0}  # each series is there from the start


async def test_load_moves_what_the_runbook_says(seen: Seen) -> None:
    sent = {f"messaging_outbox_{what}_total": FIRST for what in ("picked", "sent")}
    assert sent | {"messaging_dispatch_published_total": FIRST} == {
        name: seen.relayed[name] for name in (*sent, "messaging_dispatch_published_total")
    }
    assert seen.relayed[TICKS_OK] > seen.idle.get(TICKS_OK, 0)
    assert (seen.relayed["messaging_outbox_failed_total"], seen.relayed[TICKS_ERROR]) == (0, 0)


async def test_a_buried_row_is_failed_dead_and_in_the_queue(seen: Seen) -> None:
    for name in ("messaging_outbox_failed_total", "messaging_outbox_dead_total"):
        assert (seen.relayed[name], seen.buried[name]) == (0, 1)
    assert seen.buried['messaging_dispatch_dlq_total{sink="postgres"}'] == 1
    assert seen.buried["messaging_outbox_sent_total"] == FIRST


async def test_an_outage_is_errors_and_no_failures(seen: Seen) -> None:
    """Ticks go on, so nobody is called about a dispatcher that is down; rows wait, unharmed."""
    assert seen.outage[TICKS_ERROR] > seen.buried[TICKS_ERROR] + 3
    for name in ("messaging_dispatch_published_total", "messaging_outbox_failed_total", "messaging_outbox_dead_total"):
        assert seen.outage[name] == seen.buried[name]
    assert seen.over["messaging_dispatch_published_total"] == FIRST + MORE
    assert seen.over["messaging_outbox_sent_total"] == FIRST + MORE + HANDLED
    assert (seen.over["messaging_outbox_failed_total"], seen.over["messaging_outbox_dead_total"]) == (1, 1)
    assert seen.over[TICKS_OK] > seen.buried[TICKS_OK]


async def test_types_are_the_runbooks(seen: Seen) -> None:
    about = await seen.prometheus.metadata()
    counters = ["messaging_dispatch_ticks_total", "messaging_dispatch_published_total", "messaging_dispatch_dlq_total"]
    counters += [f"messaging_outbox_{what}_total" for what in ("picked", "sent", "failed", "dead")]
    assert {name: about[name][0] for name in counters} == dict.fromkeys(counters, "counter")
    assert about["messaging_dispatch_tick_duration_seconds"][0] == "histogram"


async def test_every_panel_finds_data(seen: Seen) -> None:
    assert len(seen.panels) > 40
    """A quantile by type has no number while no event of the type came between two scrapes: its series is enough. So it
    is with what is held, where there is no order."""
    empty = [
        (title, query)
        for (title, query), found in seen.panels.items()
        if all(math.isnan(sample.value) for sample in found)
        and not (found and ("event_type" in query or "held_aggregate" in query or "slots_owned" in query))
    ]
    assert empty == []


async def test_every_metric_is_on_the_dashboard(seen: Seen) -> None:
    text = DASHBOARD.read_text(encoding="utf-8")
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in await names(seen.prometheus)}
    left_out = {name for name in ours if name not in text}
    assert left_out == set(), f"put them on a panel of {DASHBOARD.relative_to(ROOT)}"


async def test_our_alerts_are_evaluated_and_the_buried_row_is_told(seen: Seen) -> None:
    rules = await seen.prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    await seen.prometheus.until('ALERTS{alertname="DispatcherDLQGrowing", alertstate="firing"}')
    assert {alert["labels"]["alertname"] for alert in await seen.prometheus.alerts() if alert["state"] == "firing"} == {
        "DispatcherDLQGrowing"
    }


async def test_the_scaling_queries_find_data(seen: Seen) -> None:
    found = []
    for file in sorted((ROOT / "deploy" / "kubernetes").rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        for indent, query in re.findall(r"^( +)(?:query|metricsQuery): \|\n((?:\1 +.*\n?)+)", text, re.MULTILINE):
            assert indent
            # prometheus-adapter puts the namespace of the one that is scaled there.
            found.append(await seen.prometheus.value(query.replace("<<.LabelMatchers>>", "")))
    assert len(found) == 2


def runbook() -> str:
    """The runbook this product replaces; it is not part of the repository."""
    if not RUNBOOK.exists():
        pytest.skip(f"../{RUNBOOK.relative_to(ROOT.parent)} is not there: the runbook's PromQL is NOT checked")
    return RUNBOOK.read_text(encoding="utf-8")


async def test_every_metric_of_the_runbook_is_there(seen: Seen) -> None:
    named = set(re.findall(r"`(messaging_\w+(?:\{[^`]*\})?)`", runbook()))
    assert len(named) >= 9
    for metric in named:
        if metric.endswith("_"):
            continue  # messaging_outbox_*
        histogram = "_count" if metric == "messaging_dispatch_tick_duration_seconds" else ""
        assert await seen.prometheus.soon(metric + histogram), metric


async def test_the_runbooks_promql_runs_unchanged(seen: Seen) -> None:
    [block] = re.findall(r"```promql\n(.*?)```", runbook(), re.DOTALL)
    queries = [re.sub(r"^#.*\n", "", query, flags=re.MULTILINE) for query in block.strip().split("\n\n")]
    assert len(queries) == 4
    for query in queries:
        assert await seen.prometheus.soon(query), query


async def test_the_runbooks_alerts_can_be_evaluated(seen: Seen) -> None:
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(- alert:.*?)```", runbook(), re.DOTALL)]
    alerts = [alert for block in blocks for alert in block]
    assert len(alerts) == 5
    for alert in alerts:
        await seen.prometheus.query(alert["expr"])
        left, operator, _ = re.split(r" (==|>) (?=[\d.]+\s*$)", alert["expr"].strip())
        assert operator in ("==", ">")
        assert await seen.prometheus.soon(left), alert["alert"]


async def names(prometheus: Prometheus) -> set[str]:
    """Every metric of ours that Prometheus has."""
    return {sample.labels["__name__"] for sample in await prometheus.soon('{__name__=~"messaging_.+"}')}


async def test_what_is_refused_or_never_comes_is_said(seen: Seen) -> None:
    with pytest.raises(PrometheusFailed, match="parse error"):
        await seen.prometheus.query("rate(")
    with pytest.raises(PrometheusFailed, match="nothing for 'up > 1'"):
        await seen.prometheus.until("up > 1", timeout=0.2)
