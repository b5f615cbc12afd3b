"""A node of a Redis Cluster killed, and one frozen, under load: how late are the events of the others' shards?"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import click

from bench.options import Where, common
from bench.progress import Legs
from bench.report import Report, Target, complete
from bench.servers import Rig
from dispatcher.core.layout import DEFAULT_STREAM
from dispatcher.demo.cluster import (
    SHARDS,
    ClusterReader,
    KeptTally,
    busiest,
    consume_cluster,
    count_doubled,
    shards_by_event,
)
from dispatcher.demo.histogram import Histogram
from dispatcher.demo.measure import MeasurementHooks, measure
from dispatcher.demo.producer import Load, connections_for
from dispatcher.demo.tally import Tally
from dispatcher.embedded import EmbeddedCluster
from dispatcher.embedded.cluster import ClusterNode

How = Literal["killed", "frozen"]
LIMIT_MS = 100.0  # of the p99 of the other shards
GRACE_S = 30.0
NOTE = (
    f"A Cluster of three primaries with a replica each, {SHARDS} shards, one dispatcher. Killed: the primary with most "
    "shards; its replica is promoted. Frozen: that primary and its replica stand still (SIGSTOP) for --away seconds, "
    "and nobody is promoted. The outage lasts from then to the first entry of an event of its shards committed "
    "since. An event belongs to the time of its commit."
)


@dataclass(slots=True)
class Outage:
    """One node away. Written by the measuring thread; moments of `time.perf_counter_ns`, 0: not yet."""

    cluster: EmbeddedCluster
    how: How
    at_s: float
    away_s: float
    shards: tuple[int, ...] = ()
    began_ns: int = 0
    certain_ns: int = 0  # from then on it was away for certain
    frozen: list[ClusterNode] = field(default_factory=list)

    def when_due(self, elapsed_s: float) -> None:
        """Begin it, or end it, when its time has come."""
        if not self.began_ns and elapsed_s >= self.at_s:
            victim, self.shards = busiest(self.cluster)
            self.began_ns = time.perf_counter_ns()
            if self.how == "killed":
                victim.crash()
            else:
                self.frozen = [victim, self.cluster.nodes[self.cluster.nodes.index(victim) + self.cluster.primaries]]
                for node in self.frozen:
                    os.kill(node.pid, signal.SIGSTOP)
            self.certain_ns = time.perf_counter_ns()
        elif self.frozen and elapsed_s >= self.at_s + self.away_s:
            self.thaw()

    def thaw(self) -> None:
        """Let go on what was frozen."""
        for node in self.frozen:
            os.kill(node.pid, signal.SIGCONT)
        self.frozen = []


@dataclass(slots=True)
class Latencies:
    """From commit to consumer, in nanoseconds, of events that were committed before the outage or during it."""

    before: Histogram
    there: Histogram  # during it, of the shards of that node
    others: Histogram
    seconds: float  # that it lasted


@click.command()
@click.option("--rate", type=click.FloatRange(1, 50_000), default=500.0, show_default=True, help="Events a second.")
@click.option("--away", "away_s", type=click.FloatRange(2, 3_600), default=10.0, show_default=True, help="Seconds.")
@click.option("--before", "before_s", type=click.FloatRange(2, 600), default=10.0, show_default=True, help="Seconds.")
@click.option("--after", "after_s", type=click.FloatRange(2, 600), default=5.0, show_default=True, help="Seconds.")
@common
def cluster(rate: float, away_s: float, before_s: float, after_s: float, where: Where) -> None:
    """A node of a Redis Cluster killed, then frozen, at 500 events/s: its shards are late, the others are not."""
    options = {"events/s": rate, "before": before_s, "away": away_s, "after": after_s}
    rows, raw, targets = list[dict[str, str]](), list[dict[str, Any]](), list[Target]()
    hows: tuple[How, ...] = ("killed", "frozen")
    report = Report("cluster", options, rows, targets, raw=raw, notes=[NOTE])
    with (
        where.rig(f"DISPATCH_STREAM_NAME={DEFAULT_STREAM}", f"DISPATCH_STREAM_SHARDS={SHARDS}") as servers,
        Legs(2) as legs,
    ):
        for how in hows:
            legs.begin(f"{rate:g} events/s, a node is {how}")
            servers.script("TRUNCATE messaging.message_outbox, messaging.stream_server")
            # One of its own for each: nothing is left of the node that was killed.
            with EmbeddedCluster(servers.folder / how) as nodes:
                outage = Outage(nodes, how, before_s, away_s)
                tally, found, doubled = _run(servers, outage, rate, before_s + away_s + after_s, legs)
            raw.append(
                {"how": how, "committed": tally.committed, "lost": tally.lost, "doubled": doubled, **_figures(found)}
            )
            rows += [line(how, part, each, tally.lost, doubled) for part, each in _parts(found, outage.shards).items()]
            targets += judged(how, found, tally.lost, doubled)
            legs.end(f"{how}: p99 of the other shards {_ms(found.others, 0.99)} ms")
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _run(servers: Rig, outage: Outage, rate: float, seconds: float, legs: Legs) -> tuple[Tally, Latencies, int]:
    dispatcher = servers.start_dispatcher(REDIS_URL=outage.cluster.url)
    tally = KeptTally()

    def progress(_now: Tally, elapsed_s: float) -> None:
        legs.within(min(1.0, elapsed_s / seconds))
        outage.when_due(elapsed_s)

    try:
        measure(
            Load(servers.database_url, rate, seconds, connections_for(rate)),
            ClusterReader([node.port for node in outage.cluster.nodes]),
            MeasurementHooks(progress, dispatcher.check, lambda: servers.wait_drained(dispatcher)),
            grace_s=GRACE_S,
            read=consume_cluster,
            tally=tally,
        )
    finally:
        outage.thaw()
        dispatcher.stop()
    found = latencies(tally.moments, shards_by_event(servers.database_url), outage)
    return tally, found, count_doubled([node.port for node in outage.cluster.nodes if node.running])


def latencies(moments: Mapping[bytes, tuple[int, int]], shard_of: Mapping[bytes, int], outage: Outage) -> Latencies:
    """By shard and time of the commit. `moments`: commit and receipt of each event."""
    late = [
        received
        for event, (committed, received) in moments.items()
        if committed >= outage.certain_ns and shard_of.get(event) in outage.shards
    ]
    ended_ns = min(late, default=outage.certain_ns)

    def part(wanted: Iterable[tuple[int, int]]) -> Histogram:
        return Histogram(max(0, received - committed) for committed, received in wanted)

    during = {event: each for event, each in moments.items() if outage.certain_ns <= each[0] < ended_ns}
    return Latencies(
        before=part(each for each in moments.values() if each[0] < outage.began_ns - 1_000_000_000),
        there=part(each for event, each in during.items() if shard_of.get(event) in outage.shards),
        others=part(each for event, each in during.items() if shard_of.get(event) not in outage.shards),
        seconds=(ended_ns - outage.began_ns) / 1e9,
    )


def judged(how: How, found: Latencies, lost: int, doubled: int) -> list[Target]:
    """What is wanted of one outage."""
    p99_ms = found.others.quantile(0.99) / 1e6
    said = f"a node is {how}: p99 of the other shards during {found.seconds:.1f} s {p99_ms:,.1f} ms"
    return [
        complete(f"a node is {how}:", lost, doubled),
        Target(f"{said}, wanted < {LIMIT_MS:g} ms", found.others.count > 0 and p99_ms < LIMIT_MS),
    ]


def line(how: How, part: str, found: Histogram, lost: int, doubled: int) -> dict[str, str]:
    """One of the table. Lost and doubled are those of the whole run."""
    return {
        "a node is": how,
        "events of": part,
        "events": f"{found.count:,}",
        "p50 ms": _ms(found, 0.5),
        "p99 ms": _ms(found, 0.99),
        "max ms": f"{found.maximum / 1e6:,.1f}" if found.count else "-",
        "lost": f"{lost:,}",
        "doubled": f"{doubled:,}",
    }


def _parts(found: Latencies, shards: tuple[int, ...]) -> dict[str, Histogram]:
    of_node = f"its shards ({', '.join(map(str, shards))})"
    return {"all, before": found.before, f"{of_node}, meanwhile": found.there, "the others, meanwhile": found.others}


def _figures(found: Latencies) -> dict[str, Any]:
    parts = {"before": found.before, "there": found.there, "others": found.others}
    return {"seconds": found.seconds, **{name: part.as_dict() for name, part in parts.items()}}


def _ms(found: Histogram, q: float) -> str:
    return f"{found.quantile(q) / 1e6:,.1f}" if found.count else "-"
