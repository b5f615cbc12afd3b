"""A backlog worked off while another session holds a snapshot: dead rows and index entries stay where they are."""

import contextlib
import sys
from statistics import median
from typing import Any

import click

from bench.backlog import WorkedOff, snapshot_held, work_off
from bench.charts import Chart
from bench.drain import row
from bench.options import Where, backlogs, common, rounds
from bench.progress import Legs
from bench.report import Report, above, complete

KEPT = 0.9
HELD = {False: "nobody's", True: "held"}


@click.command()
@backlogs(200_000, 400_000)
@rounds(2)
@common
def snapshot(
    rows: tuple[int, ...],
    rounds: int,
    where: Where,
) -> None:
    """The drain with a snapshot held open elsewhere, against the drain without."""
    with where.rig() as servers, Legs(len(rows) * rounds * 2) as legs:
        report = Report("snapshot", {"rows": rows, "rounds": rounds}, [], [])
        found: dict[tuple[int, bool], list[WorkedOff]] = {(size, held): [] for size in rows for held in HELD}
        for turn in range(rounds):
            for size in rows:
                for held in (False, True) if turn % 2 == 0 else (True, False):
                    legs.begin(f"{size:,} rows, snapshot {HELD[held]}")
                    holder = snapshot_held(servers) if held else contextlib.nullcontext()
                    leg = work_off(servers, size, legs, meanwhile=holder)
                    found[size, held].append(leg)
                    legs.end(f"{size:,} rows, snapshot {HELD[held]}: {leg.per_second:,.0f} events/s")
        report.rows = [
            {"snapshot": HELD[held], **row(leg)} for (_, held), each in sorted(found.items()) for leg in each
        ]
        report.raw = [{"held": held, **leg.as_dict()} for (_, held), each in found.items() for leg in each]
        rates = {key: median(leg.per_second for leg in each) for key, each in found.items()}
        legs_run = [leg for each in found.values() for leg in each]
        report.targets = [
            above(f"{size:,} rows: of the rate without a snapshot", rates[size, True] / rates[size, False], KEPT)
            for size in rows
        ] + [complete("all:", sum(leg.lost for leg in legs_run), sum(leg.duplicated for leg in legs_run))]
        bars: dict[str, Any] = {
            f"snapshot {HELD[held]}": [(f"{size:,} rows", rates[size, held]) for size in rows] for held in HELD
        }
        report.charts = [Chart("rate", "Backlog worked off beside an open snapshot", "", "events/s", bars, kind="bars")]
        code = report.finish(servers, where.reports)
    sys.exit(code)
