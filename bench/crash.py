"""One of two dispatchers killed under load: what a user notices of it."""

import os
import signal
import sys
from typing import Any

import click

from bench.charts import Chart
from bench.options import Where, common
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, Target, below, complete
from bench.servers import Rig
from bench.steady import NOTE, by_second, row, steady
from bench.steady import raw as as_raw
from dispatcher.demo.measure import Measurement

P95_MS, SLOWEST_S = 1_500.0, 3.0
KILLED = ("the busier", "the other")


@click.command()
@click.option("--rate", type=click.FloatRange(1, 50_000), default=1_000.0, show_default=True, help="Events a second.")
@click.option(
    "--seconds", type=click.FloatRange(6, 3_600), default=20.0, show_default=True, help="The kill is half-way."
)
@common
def crash(
    rate: float,
    seconds: float,
    where: Where,
) -> None:
    """kill -9 of one of two dispatchers under load: p95 through it, and the slowest event."""
    with where.rig() as servers, Legs(len(KILLED)) as legs:
        report = Report("crash", {"events/s": rate, "seconds": seconds}, [], [], notes=[NOTE])
        rows, found, targets = [], [], []
        curves: dict[str, Any] = {}
        for busier, whom in zip((True, False), KILLED, strict=True):
            legs.begin(f"{rate:g} events/s, {whom} is killed")
            measured = _leg(servers, rate, seconds, legs, busier=busier)
            tally, slowest_s = measured.tally, measured.tally.latency.maximum / 1e9
            rows.append({"killed": whom, **row(rate, measured, 0.0), "slowest s": f"{slowest_s:.2f}"})
            found.append({"killed": whom, **as_raw(rate, measured, 0.0)})
            curves[f"{whom} killed, slowest"] = by_second(measured, 1.0)
            targets += _targets(whom, tally.quantile_ms(0.95), slowest_s)
            targets.append(complete(f"{whom} killed:", tally.lost, tally.duplicated))
            legs.end(f"{whom} killed: p95 {tally.quantile_ms(0.95):.2f} ms, slowest {slowest_s:.2f} s")
        for line in rows:
            del line["cpu"]  # a killed process takes its figure with it
        report.rows, report.raw, report.targets = rows, found, targets
        title = f"One of two dispatchers killed at {seconds / 2:g} s"
        report.charts = [Chart("seconds", title, "s, by commit", "ms", curves)]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _leg(servers: Rig, rate: float, seconds: float, legs: Legs, *, busier: bool) -> Measurement:
    """Two dispatchers, one of which dies in the middle."""
    two = [servers.start_dispatcher() for _ in range(2)]
    servers.empty()
    killed: list[int] = []

    def meanwhile(elapsed_s: float) -> None:
        if not killed and elapsed_s >= seconds / 2:
            two.sort(key=lambda process: cpu_seconds(process.pid), reverse=busier)
            killed.append(two[0].pid)
            os.kill(two[0].pid, signal.SIGKILL)
            del two[0]  # from here on only the other must live

    measured = steady(servers, two, rate, seconds, 0.0, legs, trace=True, meanwhile=meanwhile)
    for process in two:
        process.stop()
    return measured


def _targets(whom: str, p95_ms: float, slowest_s: float) -> list[Target]:
    return [
        below(f"{whom} killed: p95", p95_ms, P95_MS, " ms"),
        below(f"{whom} killed: slowest", slowest_s, SLOWEST_S, " s"),
    ]
