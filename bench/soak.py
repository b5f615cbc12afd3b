"""Ten minutes under a steady load: memory must stay where it was, latency too."""

import sys
from statistics import median
from typing import Any

import click

from bench.charts import Chart
from bench.options import Where, common
from bench.processes import cpu_seconds, memory_bytes
from bench.progress import Legs
from bench.report import Report, below, complete
from bench.steady import NOTE, by_second, cores_used, raw, row, steady

MEMORY_MB, GROWTH = 120.0, 1.05
SAMPLES_AN_END = 10


@click.command()
@click.option("--rate", type=click.FloatRange(1, 50_000), default=500.0, show_default=True, help="Events a second.")
@click.option("--minutes", type=click.FloatRange(0.2, 10_000), default=10.0, show_default=True, help="How long.")
@common
def soak(
    rate: float,
    minutes: float,
    where: Where,
) -> None:
    """A long steady load: memory through it."""
    seconds = minutes * 60
    with where.rig() as servers, Legs(1) as legs:
        report = Report("soak", {"events/s": rate, "minutes": minutes}, [], [], notes=[NOTE])
        dispatcher = servers.start_dispatcher()
        cpu = cpu_seconds(dispatcher.pid)
        samples: list[tuple[float, float]] = []  # seconds, MB

        def meanwhile(elapsed_s: float) -> None:
            if elapsed_s >= len(samples) * seconds / 200:
                samples.append((elapsed_s, memory_bytes(dispatcher.pid) / 1e6))

        legs.begin(f"{rate:g} events/s")
        measured = steady(servers, [dispatcher], rate, seconds, 0.0, legs, trace=True, meanwhile=meanwhile)
        used = cores_used([dispatcher.pid], cpu, measured)
        memory = [megabytes for _, megabytes in samples]
        start = median(memory[len(memory) // 10 :][:SAMPLES_AN_END])  # once the first allocations are made
        end, peak = median(memory[-SAMPLES_AN_END:]), memory_bytes(dispatcher.pid, peak=True) / 1e6
        legs.end(f"{start:.0f} MB at the start, {end:.0f} MB at the end")
        report.rows = [{**row(rate, measured, used), "MB then": f"{start:.1f}", "MB now": f"{end:.1f}"}]
        report.raw = {"memory": samples, **raw(rate, measured, used)}
        report.targets = [
            complete(f"{rate:g}/s:", measured.tally.lost, measured.tally.duplicated),
            below("memory at the end against a tenth into the run:", end / start, GROWTH),
            below("peak memory", peak, MEMORY_MB, " MB"),
        ]
        p95: dict[str, Any] = {"p95": by_second(measured)}
        report.charts = [
            Chart("memory", f"{rate:g} events/s for {minutes:g} minutes", "s", "MB", {"dispatcher": samples}),
            Chart("seconds", f"{rate:g} events/s for {minutes:g} minutes", "s", "ms", p95),
        ]
        code = report.finish(servers, where.reports)
    sys.exit(code)
