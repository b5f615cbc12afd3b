"""What a flood of HTTP requests does to the events: commit to consumer while many connections ask without a pause."""

import json
import subprocess
import sys
import time
from typing import Any

import click

from bench.options import Where, common
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, Target, below, complete
from bench.servers import Rig
from bench.steady import NOTE, cores_used, raw, row, steady
from dispatcher.demo.measure import Measurement
from dispatcher.demo.process import DispatcherProcess

TOKEN = "bench"  # noqa: S105 -- of a sidecar on loopback, for this run
RATE = 500.0
DEAD = 1000
SLOWED = 1.5
PROMISED_P50_MS, PROMISED_P99_MS = 3.0, 15.0
BURY = f"""
WITH made AS (
    INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload, status, last_error)
    SELECT 'flood', i::text, '{{}}', 'dead', 'bench' FROM generate_series(1, {DEAD}) AS i
    RETURNING *
)
INSERT INTO messaging.message_dlq
    (outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, attempts, last_error,
     occurred_at)
SELECT id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, attempts, last_error, occurred_at
FROM made
"""
# What is asked, and what it is called.
FLOODS = {
    "": "nothing",
    "GET /health": "/health",
    "GET /metrics": "/metrics",
    "GET /api/dead-events?limit=1000": "1,000 dead events",
    "GET /api/dead-events/stats": "their counts",
    "POST /api/dead-events/999999999/retry": "a retry in vain",
    "GET /api/dead-events?token": "a wrong token",
}


@click.command()
@click.option("--connections", type=click.IntRange(1, 1000), default=64, show_default=True, help="That ask at once.")
@click.option("--rate", type=click.FloatRange(1, 50_000), default=RATE, show_default=True, help="Events a second.")
@click.option("--seconds", type=click.FloatRange(1, 3_600), default=15.0, show_default=True, help="Timed, each flood.")
@click.option("--warm-up", "warmup_s", type=click.FloatRange(0, 60), default=3.0, show_default=True, help="Untimed.")
@common
def flood(
    connections: int,
    rate: float,
    seconds: float,
    warmup_s: float,
    where: Where,
) -> None:
    """Commit to consumer while a client asks the sidecar as fast as it is answered."""
    parameters = {"connections": connections, "seconds a flood": seconds, "warm-up": warmup_s}
    with where.rig(f"DISPATCH_API_TOKEN={TOKEN}") as servers, Legs(len(FLOODS)) as legs:
        report = Report("flood", parameters, [], [], notes=[NOTE])
        dispatcher = servers.start_dispatcher()
        rows, found, targets = [], [], list[Target]()
        quiet: tuple[float, float] | None = None
        for asked, name in FLOODS.items():
            legs.begin(name)
            measured, cpu, answers = _leg(servers, dispatcher, asked, connections, rate, seconds, warmup_s, legs)
            answered = {"answers/s": f"{sum(answers.values()) / measured.done.seconds:,.0f}"}
            rows.append({"flood of": name, **answered, **row(rate, measured, cpu)})
            found.append({"flood": asked, "answers": answers, **raw(rate, measured, cpu)})
            p50, p99 = measured.tally.quantile_ms(0.5), measured.tally.quantile_ms(0.99)
            quiet = quiet or (p50, p99)
            targets += _targets(name, measured, quiet)
            legs.end(f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, answers {answers}")
        report.rows, report.raw, report.targets = rows, found, targets
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _leg(
    servers: Rig,
    dispatcher: DispatcherProcess,
    asked: str,
    connections: int,
    rate: float,
    seconds: float,
    warmup_s: float,
    legs: Legs,
) -> tuple[Measurement, float, dict[str, int]]:
    """One flood: what was measured, the dispatcher's share of a core, and answers by status."""
    servers.empty()
    servers.script(BURY)
    cpu = cpu_seconds(dispatcher.pid)
    client = _client(dispatcher.port, asked, connections) if asked else None
    try:
        measured = steady(
            servers, [dispatcher], rate, seconds, warmup_s, legs, drained=lambda: _drained(servers, dispatcher)
        )
    finally:
        answers = _end(client) if client else {}
    return measured, cores_used([dispatcher.pid], cpu, measured), answers


def _client(port: int, asked: str, connections: int) -> "subprocess.Popen[str]":
    """A process that asks. At the lowest priority: it is the dispatcher that is measured, not who gets the cores."""
    method, path = asked.split()
    token = TOKEN if "token" not in path else "wrong"
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        "-m",
        "bench.flood_client",
        str(port),
        method,
        path.partition("?token")[0],
    ]
    return subprocess.Popen(
        [*command, token, str(connections)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _end(client: "subprocess.Popen[str]") -> dict[str, int]:
    """Its answers by status."""
    try:
        written, _ = client.communicate("\n", timeout=10)  # it ends when there is something to read
    except subprocess.TimeoutExpired:
        client.kill()
        client.wait()
        return {}
    found: dict[str, int] = json.loads(written)
    return found


def _drained(servers: Rig, dispatcher: DispatcherProcess) -> None:
    servers.wait_drained(dispatcher)
    time.sleep(0.2)


def _targets(name: str, measured: Measurement, quiet: tuple[float, float]) -> list[Target]:
    """What is promised without a flood; on a machine that cannot do that, not much more than without one."""
    tally: Any = measured.tally
    p50_ms, p99_ms = max(PROMISED_P50_MS, SLOWED * quiet[0]), max(PROMISED_P99_MS, SLOWED * quiet[1])
    return [
        complete(f"{name}:", tally.lost, tally.duplicated),
        below(f"{name}: p50", tally.quantile_ms(0.5), p50_ms, " ms"),
        below(f"{name}: p99", tally.quantile_ms(0.99), p99_ms, " ms"),
    ]
