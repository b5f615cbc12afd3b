"""Commit to consumer at a steady rate: the figure a user feels."""

import sys
from pathlib import Path
from typing import Any

import click

from bench.options import common
from bench.progress import Legs
from bench.report import Report, Target
from bench.servers import STREAM, Rig, rig
from dispatcher.demo.child import DispatcherProcess
from dispatcher.demo.consumer import Reader
from dispatcher.demo.measure import Hooks, Measurement, measure
from dispatcher.demo.producer import Load, connections_for

RATES = (50.0, 500.0, 2000.0, 5000.0)
PROMISED_RATE, PROMISED_P50_MS, PROMISED_P99_MS = 500.0, 3.0, 15.0
MAX_GROUP = 16
NOTE = (
    "Each event is a transaction of its own, except those under 'shared': begun when more were overdue than there were "
    "connections. 'early': at the consumer before the commit call had returned, counted as 0. 'latest': how far behind "
    "its due time the most belated event was begun. 'cpu': the dispatcher's own, of one core."
)


@click.command()
@click.option("--rate", "rates", type=click.FloatRange(1, 50_000), multiple=True, default=RATES, show_default=True)
@click.option("--seconds", type=click.FloatRange(1, 3_600), default=20.0, show_default=True, help="Timed, each rate.")
@click.option("--warm-up", "warmup_s", type=click.FloatRange(0, 60), default=3.0, show_default=True, help="Untimed.")
@common
def latency(
    rates: tuple[float, ...],
    seconds: float,
    warmup_s: float,
    database_url: str | None,
    redis_url: str | None,
    settings: tuple[str, ...],
    reports: Path,
) -> None:
    """Commit to consumer: p50 to max at given rates, open loop."""
    with rig(database_url, redis_url, settings) as servers, Legs(len(rates)) as legs:
        report = Report("latency", {"seconds a rate": seconds, "warm-up": warmup_s}, [], [], notes=[NOTE])
        dispatcher = servers.start_dispatcher()
        rows, raw, targets = [], [], []
        for rate in rates:
            measured, cpu = _leg(servers, dispatcher, rate, seconds, warmup_s, legs)
            rows.append(_row(rate, measured, cpu))
            raw.append(_raw(rate, measured, cpu))
            targets += _targets(rate, measured)
        report.rows, report.raw, report.targets = rows, raw, targets
        code = report.finish(servers, reports)
    sys.exit(code)


def _leg(
    servers: Rig, dispatcher: DispatcherProcess, rate: float, seconds: float, warmup_s: float, legs: Legs
) -> tuple[Measurement, float]:
    """One rate: what was measured, and the share of a core the dispatcher used."""
    legs.begin(f"{rate:g} events/s")
    servers.empty()
    total_s = seconds + warmup_s
    cpu = dispatcher.cpu_seconds()
    measured = measure(
        Load(servers.database_url, rate, total_s, connections_for(rate), MAX_GROUP),
        Reader(servers.redis_url, STREAM),
        Hooks(
            progress=lambda _tally, elapsed_s: legs.within(elapsed_s / total_s),
            check=dispatcher.check,
            before_end=lambda: servers.wait_drained(dispatcher),
        ),
        warmup_s=warmup_s,
    )
    used = (dispatcher.cpu_seconds() - cpu) / measured.done.seconds
    tally = measured.tally
    legs.end(f"{rate:g}/s: p50 {tally.quantile_ms(0.5):.2f} ms, p99 {tally.quantile_ms(0.99):.2f} ms")
    return measured, used


def _row(rate: float, measured: Measurement, cpu: float) -> dict[str, str]:
    tally, done = measured.tally, measured.done
    quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
    return {
        "events/s": f"{rate:g}",
        "achieved": f"{done.events / done.seconds:,.0f}",
        **{f"{name} ms": f"{tally.quantile_ms(q):.2f}" for name, q in quantiles.items()},
        "max ms": f"{tally.latency.maximum / 1e6:.2f}",
        "lost": f"{tally.lost:,}",
        "doubled": f"{tally.duplicated:,}",
        "early": f"{tally.early:,}",
        "shared": f"{done.grouped / done.events:.1%}",
        "latest ms": f"{done.latest_s * 1e3:.1f}",
        "cpu": f"{cpu:.0%}",
    }


def _raw(rate: float, measured: Measurement, cpu: float) -> dict[str, Any]:
    return {
        "rate": rate,
        **measured.tally.summary(),
        **measured.done._asdict(),
        "dispatcher_cores": round(cpu, 3),
        "histogram_ns": measured.tally.latency.as_dict(),
    }


def _targets(rate: float, measured: Measurement) -> list[Target]:
    tally = measured.tally
    wrong = tally.lost + tally.duplicated
    targets = [Target(f"{rate:g}/s: {tally.lost:,} lost, {tally.duplicated:,} doubled, wanted none", not wrong)]
    if rate == PROMISED_RATE:
        p50, p99 = tally.quantile_ms(0.5), tally.quantile_ms(0.99)
        targets.append(Target(f"{rate:g}/s: p50 {p50:.2f} ms, wanted {PROMISED_P50_MS:g}", p50 <= PROMISED_P50_MS))
        targets.append(Target(f"{rate:g}/s: p99 {p99:.2f} ms, wanted {PROMISED_P99_MS:g}", p99 <= PROMISED_P99_MS))
    return targets
