"""A backlog worked off to 1, 2, 8 and 64 shards on one server, in turn."""

import sys
from statistics import median
from typing import Any

import anyio
import click

from bench.backlog import WorkedOff, work_off
from bench.charts import Chart
from bench.drain import row
from bench.options import Where, common, rounds, rows
from bench.progress import Legs
from bench.report import Report, Target, complete
from bench.servers import STREAM, Rig
from dispatcher.core.layout import Layout
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.layout import LayoutChange

COMPARED, WANTED = 8, 0.95
NOTE = (
    "In turn: 1, 2, 8, 64 shards, then the other way round. With shards one pipeline writes to all keys of a batch, "
    "each row says its key, and a settle is fenced for each stream in it. One server gains nothing: this is the cost."
)


@click.command()
@click.option(
    "--shards", type=click.IntRange(1, 256), multiple=True, default=(1, 2, 8, 64), show_default=True, help="How many."
)
@rows(100_000, "The backlog.")
@rounds(3)
@common
def shards(shards: tuple[int, ...], rows: int, rounds: int, where: Where) -> None:
    """The drain to 1, 2, 8 and 64 shards."""
    with where.rig() as servers, Legs(len(shards) * rounds) as legs:
        report = Report("shards", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        found: dict[int, list[WorkedOff]] = {count: [] for count in shards}
        for turn in range(rounds):
            for count in shards if turn % 2 == 0 else shards[::-1]:
                legs.begin(f"{count} shards")
                found[count].append(_leg(servers, rows, legs, Layout(STREAM, count)))
                legs.end(f"{count} shards: {found[count][-1].per_second:,.0f} events/s")
        report.rows = [{"shards": f"{count}", **row(leg)} for count, each in found.items() for leg in each]
        report.raw = [{"shards": count, **leg.as_dict()} for count, each in found.items() for leg in each]
        report.targets = [*_targets(found)]
        bars: dict[str, Any] = {
            "dispatcher": [(f"{count}", median(leg.per_second for leg in each)) for count, each in found.items()]
        }
        report.charts = [Chart("rate", f"{rows:,} rows worked off", "shards", "events/s", bars, kind="bars")]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _leg(servers: Rig, rows: int, legs: Legs, layout: Layout) -> WorkedOff:
    servers.empty()
    anyio.run(_set, servers, layout)
    settings = {"DISPATCH_STREAM_SHARDS": str(layout.shards)}
    return work_off(servers, rows, legs, settings=settings, streams=layout.keys)


async def _set(servers: Rig, layout: Layout) -> None:
    async with LayoutChange(PostgresTarget(servers.database_url, "bench")) as change:
        await change.set(layout, [], 30.0)


def _targets(found: dict[int, list[WorkedOff]]) -> list[Target]:
    legs = [leg for each in found.values() for leg in each]
    targets = [complete("all:", sum(leg.lost for leg in legs), sum(leg.duplicated for leg in legs))]
    if 1 in found and COMPARED in found:
        one, several = (median(leg.per_second for leg in found[count]) for count in (1, COMPARED))
        ratio = several / one
        said = f"{COMPARED} shards against 1: {ratio:.2f} of its rate, wanted at least {WANTED}"
        targets.append(Target(said, ratio >= WANTED))
    return targets
