"""A backlog worked off to 1, 2, 8 and 64 shards, on one server and on a Cluster of three nodes, in turn."""

import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import anyio
import click

from bench.backlog import WorkedOff, work_off
from bench.charts import Chart
from bench.options import Where, common, rounds, rows
from bench.progress import Legs
from bench.report import Report, Target, complete
from bench.servers import STREAM, Rig
from dispatcher.core.layout import Layout
from dispatcher.embedded import EmbeddedCluster
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.layout import LayoutChange

COMPARED, WANTED = 8, 0.95
NODES = {"1": "one server", "3": "three nodes"}
NOTE = (
    "In turn: each number of shards on one server, then on a Cluster of three primaries; the next round the other way "
    "round. 'of 1 shard': median against that of 1 shard at the same place. All servers share the machine, so the "
    "Cluster shows what it costs, not what three machines bring."
)


class Leg(NamedTuple):
    """What is measured once a round. `nodes`: a key of NODES."""

    nodes: str
    shards: int

    def __str__(self) -> str:
        return f"{self.shards} shards on {NODES[self.nodes]}"


@click.command()
@click.option(
    "--shards", type=click.IntRange(1, 256), multiple=True, default=(1, 2, 8, 64), show_default=True, help="How many."
)
@click.option(
    "--nodes", type=click.Choice([*NODES]), multiple=True, default=(*NODES,), show_default=True, help="Of Redis."
)
@rows(50_000, "The backlog.")
@rounds(2)
@common
def shards(shards: tuple[int, ...], nodes: tuple[str, ...], rows: int, rounds: int, where: Where) -> None:
    """The drain to 1, 2, 8 and 64 shards, on one server and on three nodes."""
    plan = [Leg(each, count) for count in shards for each in nodes]
    with where.rig() as servers, Legs(len(plan) * rounds) as legs:
        places = {"1": servers}
        if "3" in nodes:
            places["3"] = servers.on_cluster(
                servers.stack.enter_context(EmbeddedCluster(servers.folder / "cluster", replicas=0))
            )
        report = Report("shards", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        found: dict[Leg, list[WorkedOff]] = {leg: [] for leg in plan}
        for turn in range(rounds):
            for leg in plan if turn % 2 == 0 else plan[::-1]:
                legs.begin(str(leg))
                found[leg].append(_work_off(places[leg.nodes], rows, legs, Layout(STREAM, leg.shards)))
                legs.end(f"{leg}: {found[leg][-1].per_second:,.0f} events/s")
        report.rows = table(found)
        report.raw = [leg._asdict() | each.as_dict() for leg, all_of in found.items() for each in all_of]
        report.targets = targets(found)
        bars: dict[str, Any] = {
            NODES[each]: [(f"{leg.shards}", _rate(found[leg])) for leg in plan if leg.nodes == each] for each in nodes
        }
        report.charts = [Chart("rate", f"{rows:,} rows worked off", "shards", "events/s", bars, kind="bars")]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _work_off(servers: Rig, rows: int, legs: Legs, layout: Layout) -> WorkedOff:
    # Or the dispatcher would take the other place for the Redis of another outbox, and refuse it.
    servers.script("TRUNCATE messaging.message_outbox, messaging.stream_server")
    anyio.run(_set, servers, layout)
    settings = {"DISPATCH_STREAM_SHARDS": str(layout.shards)}
    return work_off(servers, rows, legs, settings=settings, streams=layout.keys)


async def _set(servers: Rig, layout: Layout) -> None:
    async with LayoutChange(PostgresTarget(servers.database_url, "bench")) as change:
        await change.set(layout, [], 30.0)


def _rate(all_of: Sequence[WorkedOff]) -> float:
    return median(each.per_second for each in all_of)


def table(found: Mapping[Leg, Sequence[WorkedOff]]) -> list[dict[str, str]]:
    """A line for each place and number of shards, over all rounds."""
    lines = []
    for leg, all_of in sorted(found.items()):
        one = found.get(Leg(leg.nodes, 1))
        rates = [each.per_second for each in all_of]
        lines.append(
            {
                "on": NODES[leg.nodes],
                "shards": f"{leg.shards}",
                "events/s": f"{_rate(all_of):,.0f}",
                "lowest": f"{min(rates):,.0f}",
                "highest": f"{max(rates):,.0f}",
                "of 1 shard": f"{_rate(all_of) / _rate(one):.2f}" if one else "-",
                "CPU s / 1,000": f"{median(each.cpu_s_per_1000 for each in all_of):.4f}",
                "lost": f"{sum(each.lost for each in all_of):,}",
                "doubled": f"{sum(each.duplicated for each in all_of):,}",
            }
        )
    return lines


def targets(found: Mapping[Leg, Sequence[WorkedOff]]) -> list[Target]:
    """What is wanted of one server; three nodes on one machine share its cores."""
    legs = [each for all_of in found.values() for each in all_of]
    wanted = [complete("all:", sum(each.lost for each in legs), sum(each.duplicated for each in legs))]
    one, several = found.get(Leg("1", 1)), found.get(Leg("1", COMPARED))
    if one and several:
        ratio = _rate(several) / _rate(one)
        said = f"{COMPARED} shards against 1 on one server: {ratio:.2f} of its rate, wanted at least {WANTED}"
        wanted.append(Target(said, ratio >= WANTED))
    return wanted
