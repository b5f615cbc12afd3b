"""Commit to consumer at a steady rate: the figure a user feels. Beside it the same without a doorbell: poll only."""

import sys
from typing import Any

import click

from bench.charts import Chart
from bench.options import Where, common
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, Target, below, complete
from bench.servers import Rig
from bench.steady import NOTE, cores_used, raw, row, steady
from dispatcher.demo.measure import Measurement
from dispatcher.demo.process import DispatcherProcess
from dispatcher.infra import sqlfiles

RATES = (50.0, 500.0, 2000.0, 5000.0)
WANTED = {50.0: {0.5: 1.3, 0.99: 3.0}, 500.0: {0.5: 1.2, 0.99: 4.0}, 5000.0: {0.99: 25.0}}  # rate: quantile: ms
WAKERS = {"doorbell": "doorbell", "poll-only": "poll only"}


@click.command()
@click.option(
    "--rate",
    "rates",
    type=click.FloatRange(1, 50_000),
    multiple=True,
    default=RATES,
    show_default=True,
    help="Events a second. May be given several times.",
)
@click.option("--seconds", type=click.FloatRange(1, 3_600), default=15.0, show_default=True, help="Timed, each rate.")
@click.option("--warm-up", "warmup_s", type=click.FloatRange(0, 60), default=3.0, show_default=True, help="Untimed.")
@click.option("--poll-only/--no-poll-only", default=True, show_default=True, help="Also without the trigger.")
@common
def latency(
    rates: tuple[float, ...],
    seconds: float,
    warmup_s: float,
    poll_only: bool,
    where: Where,
) -> None:
    """Commit to consumer: p50 to max at given rates, open loop."""
    wakers = list(WAKERS) if poll_only else ["doorbell"]
    with where.rig() as servers, Legs(len(rates) * len(wakers)) as legs:
        report = Report("latency", {"seconds a rate": seconds, "warm-up": warmup_s}, [], [], notes=[NOTE])
        rows, found, targets = [], [], []
        curves: dict[str, list[tuple[float | str, float]]] = {}
        dispatcher = servers.start_dispatcher()
        for rate in rates:
            for waker in wakers:
                legs.begin(f"{rate:g} events/s, {WAKERS[waker]}")
                _install(servers, waker)
                measured, cpu = _leg(servers, dispatcher, rate, seconds, warmup_s, legs)
                rows.append({"woken by": WAKERS[waker], **row(rate, measured, cpu)})
                found.append({"woken_by": waker, **raw(rate, measured, cpu)})
                p50, p99 = measured.tally.quantile_ms(0.5), measured.tally.quantile_ms(0.99)
                curves.setdefault(f"{WAKERS[waker]}, p50", []).append((rate, p50))
                curves.setdefault(f"{WAKERS[waker]}, p99", []).append((rate, p99))
                targets += _targets(rate, waker, measured)
                legs.end(f"{rate:g}/s, {WAKERS[waker]}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        _install(servers, "doorbell")
        report.rows, report.raw, report.targets = rows, found, targets
        report.charts = [
            Chart("quantiles", "Commit to consumer", "events/s", "ms", curves, log_x=True, log_y=True),
        ]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _install(servers: Rig, waker: str) -> None:
    servers.script(sqlfiles.trigger() if waker == "doorbell" else sqlfiles.trigger_down())


def _leg(
    servers: Rig, dispatcher: DispatcherProcess, rate: float, seconds: float, warmup_s: float, legs: Legs
) -> tuple[Measurement, float]:
    """One rate: what was measured, and the share of a core the dispatcher used."""
    servers.empty()
    cpu = cpu_seconds(dispatcher.pid)
    measured = steady(servers, [dispatcher], rate, seconds, warmup_s, legs)
    return measured, cores_used([dispatcher.pid], cpu, measured)


def _targets(rate: float, waker: str, measured: Measurement) -> list[Target]:
    tally = measured.tally
    targets = [complete(f"{rate:g}/s, {WAKERS[waker]}:", tally.lost, tally.duplicated)]
    wanted: dict[float, Any] = WANTED.get(rate, {}) if waker == "doorbell" else {}
    return targets + [below(f"{rate:g}/s: p{q * 100:g}", tally.quantile_ms(q), ms, " ms") for q, ms in wanted.items()]
