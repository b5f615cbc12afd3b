"""What order within an aggregate costs, and what a change among dispatchers delays: order against none, in turn."""

import sys
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import anyio
import click

from bench.backlog import WorkedOff, work_off
from bench.options import Where, common, rounds, rows
from bench.order_changes import CHANGES, delays
from bench.progress import Legs
from bench.report import Report, Target, complete
from bench.servers import STREAM, Rig
from bench.steady import steady
from dispatcher.core.layout import Layout, OrderMode
from dispatcher.demo.measure import Measurement
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.layout import LayoutChange

DRAIN, HOT, P50, SHARDS = 0.85, 0.6, 1.3, 0.95  # of the rate, of the rate, times the p50, of the rate to one stream
RATE = 500.0
NOTE = (
    "In turn, then the other way round: DISPATCH_ORDER none and aggregate, each with a backlog of 1,000 aggregates; "
    "then aggregate with one aggregate for all events, and aggregate to 8 shards. p50: at 500 events/s."
)


class Leg(NamedTuple):
    """One of those that are compared. `one`: all events are of one aggregate."""

    order: OrderMode
    one: bool = False
    shards: int = 1

    @property
    def layout(self) -> Layout:
        """Of the streams."""
        return Layout(STREAM, self.shards, order=self.order)

    @property
    def name(self) -> str:
        """As the table says it."""
        several = f", {self.shards} shards" if self.shards > 1 else ""
        return f"{self.order}, one for all events" if self.one else self.order + several


LEGS = (Leg("none"), Leg("aggregate"), Leg("aggregate", one=True), Leg("aggregate", shards=8))


@click.command()
@rows(100_000, "The backlog.")
@rounds(3)
@click.option("--seconds", type=click.FloatRange(1, 600), default=10.0, show_default=True, help="Each steady load.")
@common
def order(rows: int, rounds: int, seconds: float, where: Where) -> None:
    """Order within an aggregate against none: drain, p50, and the delay when dispatchers come and go."""
    with where.rig() as servers, Legs(len(LEGS) * rounds + 2 * rounds + len(CHANGES)) as legs:
        report = Report("order", {"rows": rows, "rounds": rounds, "seconds": seconds}, [], [], notes=[NOTE])
        drained: dict[Leg, list[WorkedOff]] = {leg: [] for leg in LEGS}
        felt: dict[Leg, list[Measurement]] = {leg: [] for leg in LEGS[:2]}
        for turn in range(rounds):
            for leg in LEGS if turn % 2 == 0 else LEGS[::-1]:
                drained[leg].append(_drain(servers, leg, rows, legs))
            for leg in LEGS[:2] if turn % 2 == 0 else LEGS[1::-1]:
                felt[leg].append(_feel(servers, leg, seconds, legs))
        _set(servers, LEGS[1])
        changed = [delays(servers, change, legs) for change in CHANGES]
        report.rows = [_row(leg, drained[leg], felt.get(leg, [])) for leg in LEGS]
        report.notes = [NOTE, *(each.sentence for each in changed)]
        report.raw = [{"order": leg.name, **each.as_dict()} for leg, found in drained.items() for each in found]
        report.raw += [{"order": leg.name, **each.tally.summary()} for leg, found in felt.items() for each in found]
        report.raw += [each._asdict() for each in changed]
        report.targets = [*_targets(drained, felt), *(each.target() for each in changed)]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _drain(servers: Rig, leg: Leg, rows: int, legs: Legs) -> WorkedOff:
    legs.begin(f"drain, {leg.name}")
    _set(servers, leg)
    filled = _into_one if leg.one else _as_it_is
    found = work_off(servers, rows, legs, settings=_settings(leg), after_fill=filled, streams=leg.layout.keys)
    legs.end(f"drain, {leg.name}: {found.per_second:,.0f} events/s")
    return found


def _feel(servers: Rig, leg: Leg, seconds: float, legs: Legs) -> Measurement:
    legs.begin(f"{RATE:g} events/s, {leg.name}")
    _set(servers, leg)
    dispatcher = servers.start_dispatcher(**_settings(leg))
    found = steady(servers, [dispatcher], RATE, seconds, 2.0, legs)
    dispatcher.stop()
    legs.end(f"{RATE:g} events/s, {leg.name}: p50 {found.tally.quantile_ms(0.5):.2f} ms")
    return found


def _settings(leg: Leg) -> dict[str, str]:
    return {"DISPATCH_ORDER": leg.order, "DISPATCH_STREAM_SHARDS": str(leg.shards)}


def _as_it_is(servers: Rig) -> None:
    """Events of 1,000 aggregates."""


def _into_one(servers: Rig) -> None:
    """All events are of one aggregate. Written again, so that the table is as compact as that of the others."""
    with servers.connect() as connection:
        connection.execute("UPDATE messaging.message_outbox SET aggregate_id = 'one'")
        connection.execute("VACUUM FULL messaging.message_outbox")


def _set(servers: Rig, leg: Leg) -> None:
    servers.empty()
    anyio.run(_set_layout, servers, leg.layout)


async def _set_layout(servers: Rig, layout: Layout) -> None:
    async with LayoutChange(PostgresTarget(servers.database_url, "bench")) as change:
        await change.set(layout, [], 30.0)


def _row(leg: Leg, drained: list[WorkedOff], felt: list[Measurement]) -> Mapping[str, str]:
    return {
        "order": leg.name,
        "events/s": " ".join(f"{each.per_second:,.0f}" for each in drained),
        "CPU s / 1,000": f"{median(each.cpu_s_per_1000 for each in drained):.4f}",
        "p50 ms": " ".join(f"{each.tally.quantile_ms(0.5):.2f}" for each in felt) or "-",
        "lost": f"{sum(each.lost for each in drained) + sum(each.tally.lost for each in felt):,}",
        "doubled": f"{sum(each.duplicated for each in drained) + sum(each.tally.duplicated for each in felt):,}",
    }


def _targets(drained: dict[Leg, list[WorkedOff]], felt: dict[Leg, list[Measurement]]) -> list[Target]:
    none, several, one, shards = (median(each.per_second for each in drained[leg]) for leg in LEGS)
    p50s = [median(each.tally.quantile_ms(0.5) for each in felt[leg]) for leg in LEGS[:2]]
    lost = sum(each.lost for found in drained.values() for each in found)
    doubled = sum(each.duplicated for found in drained.values() for each in found)
    times = p50s[1] / p50s[0]
    return [
        complete("all:", lost, doubled),
        Target(
            f"drain in order: {several / none:.2f} of that without, wanted at least {DRAIN}", several / none >= DRAIN
        ),
        Target(f"one aggregate for all: {one / none:.2f}, wanted at least {HOT}", one / none >= HOT),
        Target(
            f"in order, {LEGS[3].shards} shards against 1: {shards / several:.2f}, wanted at least {SHARDS}",
            shards / several >= SHARDS,
        ),
        Target(f"p50 at {RATE:g}/s: {times:.2f} times that without, wanted at most {P50}", times <= P50),
    ]
