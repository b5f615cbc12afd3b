"""A backlog shared by 1, 2 and 4 dispatchers that begin at the same moment."""

import sys
from statistics import median
from typing import Any

import click

from bench.backlog import WorkedOff, work_off
from bench.charts import Chart
from bench.drain import row
from bench.options import Where, common, rounds, rows
from bench.progress import Legs
from bench.report import Report, complete

NOTE = (
    "Each process is a dispatcher of its own, as on a host of its own. With no more cores than the servers already "
    "fill, more processes show how little they get into each other's way, not more speed."
)


@click.command()
@click.option(
    "--processes", type=click.IntRange(1, 64), multiple=True, default=(1, 2, 4), show_default=True, help="How many."
)
@rows(200_000, "The backlog.")
@rounds(2)
@common
def scale(
    processes: tuple[int, ...],
    rows: int,
    rounds: int,
    where: Where,
) -> None:
    """The drain by several processes."""
    with where.rig() as servers, Legs(len(processes) * rounds) as legs:
        report = Report("scale", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        found: dict[int, list[WorkedOff]] = {count: [] for count in processes}
        for turn in range(rounds):
            for count in processes if turn % 2 == 0 else processes[::-1]:
                legs.begin(f"{count} processes")
                found[count].append(work_off(servers, rows, legs, dispatchers=count))
                legs.end(f"{count} processes: {found[count][-1].per_second:,.0f} events/s")
        report.rows = [{"processes": f"{count}", **row(leg)} for count, each in found.items() for leg in each]
        report.raw = [{"processes": count, **leg.as_dict()} for count, each in found.items() for leg in each]
        legs_run = [leg for each in found.values() for leg in each]
        report.targets = [complete("all:", sum(leg.lost for leg in legs_run), sum(leg.duplicated for leg in legs_run))]
        bars: dict[str, Any] = {
            "dispatchers": [(f"{count}", median(leg.per_second for leg in each)) for count, each in found.items()]
        }
        report.charts = [Chart("rate", f"{rows:,} rows worked off", "processes", "events/s", bars, kind="bars")]
        code = report.finish(servers, where.reports)
    sys.exit(code)
