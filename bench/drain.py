"""How fast a backlog is worked off, and what it costs: events a second, processor time, WAL, memory."""

import sys
from statistics import median
from typing import Any

import click

from bench.backlog import WorkedOff, work_off
from bench.charts import Chart
from bench.options import Where, backlogs, common, rounds
from bench.progress import Legs
from bench.report import Report, Target, below, complete

CPU_S_PER_1000 = 0.012
MEMORY_MB = 120
NOTE = (
    "events/s: from the first entry's stream id to the last one's. CPU: processor time for 1,000 events, the "
    "dispatcher's own and each server's. WAL: all Postgres wrote until the last row was settled. Peak: resident memory."
)


@click.command()
@backlogs(100_000, 1_000_000)
@rounds(3, "Of each; of a million, one.")
@common
def drain(
    rows: tuple[int, ...],
    rounds: int,
    where: Where,
) -> None:
    """A backlog written while the dispatcher was stopped, then the dispatcher."""
    plan = [size for size in rows for _ in range(rounds if size < 1_000_000 else 1)]
    with where.rig() as servers, Legs(len(plan)) as legs:
        report = Report("drain", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        found = []
        for size in plan:
            legs.begin(f"{size:,} rows")
            found.append(work_off(servers, size, legs))
            legs.end(f"{size:,} rows: {found[-1].per_second:,.0f} events/s")
        report.rows = [row(each) for each in found]
        report.raw = [each.as_dict() for each in found]
        report.targets = targets(found)
        report.charts = [_chart(found)]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def row(found: WorkedOff) -> dict[str, str]:
    """A line of the table."""
    return {
        "rows": f"{found.rows:,}",
        "events/s": f"{found.per_second:,.0f}",
        "CPU s / 1,000": f"{found.cpu_s_per_1000:.4f}",
        **{f"{name}'s": f"{seconds:.4f}" for name, seconds in found.server_cpu_s_per_1000.items()},
        "WAL kB / 1,000": f"{found.wal_bytes_per_1000 / 1000:,.0f}",
        "peak MB": f"{found.peak_memory_bytes / 1e6:,.0f}",
        "lost": f"{found.lost:,}",
        "doubled": f"{found.duplicated:,}",
    }


def targets(found: list[WorkedOff]) -> list[Target]:
    """What every drain promises."""
    return [
        complete("all:", sum(each.lost for each in found), sum(each.duplicated for each in found)),
        below("CPU s for 1,000 events (median)", median(each.cpu_s_per_1000 for each in found), CPU_S_PER_1000),
        below("peak memory", max(each.peak_memory_bytes for each in found) / 1e6, MEMORY_MB, " MB"),
    ]


def _chart(found: list[WorkedOff]) -> Chart:
    sizes = sorted({each.rows for each in found})
    rates: list[tuple[Any, float]] = [
        (f"{size:,} rows", median(each.per_second for each in found if each.rows == size)) for size in sizes
    ]
    return Chart("rate", "Backlog worked off", "", "events/s", {"dispatcher": rates}, kind="bars")
