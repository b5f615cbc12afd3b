"""What each technique brings: the drain with all of them against the drain with one taken away, interleaved."""

import contextlib
import sys
from statistics import median
from typing import Any

import click

from bench.backlog import WorkedOff, snapshot_held, work_off
from bench.charts import Chart
from bench.options import Where, common, rounds, rows
from bench.progress import Legs
from bench.report import Report, complete
from bench.servers import Rig
from bench.without import TECHNIQUES, Technique

ALL = Technique("all of them")
ALL_HELD = Technique("all of them, a snapshot held", held=True)
NOTE = (
    "Each line: the drain without that one technique (what stands instead in brackets), and its share of the drain "
    "with all of them in the same conditions. No target: near 100 % says that it matters little on this machine."
)


@click.command()
@rows(100_000)
@rounds(2)
@common
def techniques(
    rows: int,
    rounds: int,
    where: Where,
) -> None:
    """The drain with each technique and without it."""
    plan = {"": ALL, "held": ALL_HELD, **TECHNIQUES}
    with where.rig() as servers, Legs(len(plan) * rounds) as legs:
        report = Report("techniques", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        found: dict[str, list[WorkedOff]] = {key: [] for key in plan}
        for turn in range(rounds):
            for key in list(plan)[:: 1 if turn % 2 == 0 else -1]:
                legs.begin(f"without {plan[key].name}" if key in TECHNIQUES else plan[key].name)
                found[key].append(_leg(servers, key, plan[key], rows, legs))
                legs.end(f"{plan[key].name}: {found[key][-1].per_second:,.0f} events/s")
        report.rows = [_row(plan[key], found[key], found["held" if plan[key].held else ""]) for key in plan]
        report.raw = {key: [leg.as_dict() for leg in each] for key, each in found.items()}
        legs_run = [leg for each in found.values() for leg in each]
        report.targets = [complete("all:", sum(leg.lost for leg in legs_run), sum(leg.duplicated for leg in legs_run))]
        rates: dict[str, Any] = {
            "events/s": [(key or "all", median(leg.per_second for leg in each)) for key, each in found.items()]
        }
        report.charts = [Chart("rate", "The drain without one technique", "without", "events/s", rates, kind="bars")]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _leg(servers: Rig, key: str, technique: Technique, rows: int, legs: Legs) -> WorkedOff:
    command = (sys.executable, "-m", "bench.without", key) if key in TECHNIQUES else None
    holder = snapshot_held(servers) if technique.held else contextlib.nullcontext()
    if technique.sql:
        servers.script(technique.sql)
    try:
        return work_off(servers, rows, legs, settings=dict(technique.settings), meanwhile=holder, command=command)
    finally:
        if technique.back:
            servers.script(technique.back)


def _row(technique: Technique, legs: list[WorkedOff], base: list[WorkedOff]) -> dict[str, str]:
    rate, cpu = median(leg.per_second for leg in legs), median(leg.cpu_s_per_1000 for leg in legs)
    wal = median(leg.wal_bytes_per_1000 for leg in legs)
    return {
        "without": technique.name,
        "events/s": f"{rate:,.0f}",
        "of all": f"{rate / median(leg.per_second for leg in base):.0%}",
        "CPU s / 1,000": f"{cpu:.4f}",
        **{
            f"{name}'s": f"{median(leg.server_cpu_s_per_1000[name] for leg in legs):.4f}"
            for name in legs[0].server_cpu_s_per_1000
        },
        "WAL kB / 1,000": f"{wal / 1000:,.0f}",
    }
