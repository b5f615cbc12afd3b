"""The same relay work by others, at their documented best, on the same servers: those of `bench/rivals`.

A row becomes an XADD to the same stream and is then marked done; the same producer, consumer and measure for all. What
those in Python publish with is the dispatcher's own wire to Redis, and those on Node have one as small, so that what is
compared is the queue. Dependency group `peers`, and Node.js 22.18 or later for two of them.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from statistics import median
from typing import Any

import click

from bench.backlog import SAMPLES, fill, samples, until_published
from bench.charts import Chart
from bench.options import Where, common, rounds
from bench.peers_found import OURS, RATES, Found, judged
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report
from bench.rivals import RIVALS, command_of, node, settings_of, version_of
from bench.servers import STREAM, Rig
from bench.steady import OverloadedError, steady
from bench.stream import look
from dispatcher.core.errors import DispatcherError, Misconfigured
from dispatcher.demo.process import DispatcherProcess

# Of the backlog: each peer works some seconds.
SHARES = {
    OURS: 1.0,
    "graphile-worker": 0.8,
    "pg-boss": 0.5,
    "PgQueuer": 0.2,
    "faststream-outbox": 0.15,
    "procrastinate": 0.03,
}


@click.command()
@click.option(
    "--rows", type=click.IntRange(1_000, 900_000), default=100_000, show_default=True, help="Ours; less for others."
)
@rounds(2, "Of each backlog, and of each rate.")
@click.option("--only", multiple=True, metavar="NAME", help="Compare with this peer. May be given several times.")
@click.option("--seconds", type=click.FloatRange(2, 3_600), default=12.0, show_default=True, help="Each steady rate.")
@common
def peers(
    rows: int,
    rounds: int,
    only: tuple[str, ...],
    seconds: float,
    where: Where,
) -> None:
    """Others at the same work: graphile-worker, pg-boss, PgQueuer, faststream-outbox, procrastinate."""
    if unknown := {*only} - {*RIVALS}:
        raise click.UsageError(f"no such peer: {', '.join(sorted(unknown))} (there are {', '.join(RIVALS)})")
    rivals, left_out = _rivals(only or tuple(RIVALS))
    names = [OURS, *rivals]
    with where.rig() as servers, Legs(len(names) * rounds * (1 + len(RATES))) as legs:
        versions = {name: version_of(rivals[name]) for name in rivals}
        report = Report("peers", {"rows": rows, "rounds": rounds, "seconds": seconds, **versions}, [], [])
        for rival in rivals.values():
            asyncio.run(rival.prepare(servers.database_url))
        found = {name: Found() for name in names}
        for turn in range(rounds):
            for name in names if turn % 2 == 0 else names[::-1]:
                legs.begin(f"{name}: backlog")
                _drain(servers, name, rivals.get(name), max(500, round(rows * SHARES[name])), found[name], legs)
                legs.end(f"{name}: {found[name].per_second[-1]:,.0f} events/s")
        for rate, turn in ((rate, turn) for rate in RATES for turn in range(rounds)):
            for name in names if turn % 2 == 0 else names[::-1]:
                legs.begin(f"{name}: {rate:g} events/s")
                legs.end(f"{name}: {_latency(servers, name, rivals.get(name), rate, seconds, found[name], legs)}")
        report.rows = [each.row(name) for name, each in found.items()]
        report.raw = {name: each.raw() for name, each in found.items()}
        report.notes = [
            "Backlog: from the first entry's stream id to the last one's. CPU: the relay process's own, from its first "
            "entry to the last row marked done; under a rate, the share of a core. Commit to consumer as in `latency`. "
            f"Medians of {rounds} rounds in turn.",
            *left_out,
            *(f"{name} {versions[name]}: {rival.CHANGES}." for name, rival in rivals.items()),
        ]
        report.targets = judged(found)
        bars: dict[str, Any] = {"events/s": [(name, median(each.per_second)) for name, each in found.items()]}
        p99: dict[str, Any] = {
            f"{rate:g} events/s": [(name, each.at(rate, 1) or 0.0) for name, each in found.items()] for rate in RATES
        }
        report.charts = [
            Chart("rate", "Backlog worked off", "", "events/s", bars, kind="bars"),
            Chart("p99", "Commit to consumer, p99 (none: fell behind)", "", "ms", p99, kind="bars", log_y=True),
        ]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _rivals(wanted: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Of these those that are installed, and what is to be said of the others. Raises Misconfigured when none is."""
    no_node = node.problem()
    installed, left_out = {}, [no_node] if no_node else []
    for name, module in ((name, RIVALS[name]) for name in wanted):
        if no_node and hasattr(module, "PACKAGE"):
            continue
        try:
            version_of(module)
        except PackageNotFoundError:
            left_out.append(f"{name} was left out: it is not installed (`make bench-all` installs it)")
        else:
            installed[name] = module
    if not installed:
        raise Misconfigured("; ".join(["no peer is installed: `make bench-all` installs them", *left_out[:1]]))
    for why in left_out:
        click.echo(why, err=True)
    return installed, left_out


@contextlib.contextmanager
def _running(servers: Rig, name: str) -> Iterator[DispatcherProcess]:
    """The peer's process, or the dispatcher's."""
    if name == OURS:
        process = servers.launch_dispatcher()
    else:
        settings = {
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            "DISPATCH_STREAM_NAME": STREAM,
            "DISPATCH_HTTP_PORT": "0",
            **settings_of(RIVALS[name]),
        }
        log = servers.folder / f"{name}.log"
        process = servers.stack.enter_context(DispatcherProcess(settings, log, command=command_of(name)))
    try:
        yield process
    finally:
        process.stop()


def _empty(servers: Rig, rival: Any) -> None:
    if rival is not None:
        servers.script(rival.EMPTY)
    servers.empty()


def _enqueue(servers: Rig, rival: Any, rows: int) -> None:
    with samples(servers, rows) as cursor:
        cursor.execute(rival.FILL.encode(), [1, rows, SAMPLES])
        cursor.execute("VACUUM (ANALYZE)")  # its plans must not be those of an empty table


def _wait_done(servers: Rig, rival: Any, process: DispatcherProcess) -> None:
    """Until all is marked done."""
    if rival is None:
        return servers.wait_drained(process)
    deadline = time.monotonic() + 60.0
    while left := servers.value(rival.LEFT):
        process.check()
        if time.monotonic() > deadline:
            raise DispatcherError(f"{left:,} jobs were still not marked done:\n{process.last_lines()}")
        time.sleep(0.05)
    return None


def _drain(servers: Rig, name: str, rival: Any, rows: int, found: Found, legs: Legs) -> None:
    _empty(servers, rival)
    if rival is None:
        fill(servers, rows, legs)
    else:
        _enqueue(servers, rival, rows)
    with _running(servers, name) as process:
        until_published(servers, [process], 1, legs)
        cpu, postgres, at_first = cpu_seconds(process.pid), _postgres_s(servers), _length(servers)
        until_published(servers, [process], rows, legs)
        _wait_done(servers, rival, process)
        cpu, postgres = cpu_seconds(process.pid) - cpu, _postgres_s(servers) - postgres
    looked = look(servers, None if rival is None else set())
    found.per_second.append(looked.entries / looked.seconds)
    found.cpu_s_per_1000.append(cpu / max(1, rows - at_first) * 1000)
    found.postgres_s_per_1000.append(postgres / max(1, rows - at_first) * 1000)
    found.lost += looked.lost
    found.duplicated += looked.duplicated


def _latency(servers: Rig, name: str, rival: Any, rate: float, seconds: float, found: Found, legs: Legs) -> str:
    """A steady rate, like `latency`. Returns what came of it, in words."""
    _empty(servers, rival)
    statement = None if rival is None else rival.insert()
    with _running(servers, name) as process:
        if rival is None:
            fill(servers, 1)
        else:
            _enqueue(servers, rival, 1)
        until_published(servers, [process], 1, legs)  # it relays: ready
        _wait_done(servers, rival, process)
        cpu, postgres = cpu_seconds(process.pid), _postgres_s(servers)
        try:
            measured = steady(
                servers,
                [process],
                rate,
                seconds,
                2.0,
                legs,
                give_up_behind_s=min(4.0, seconds / 4),
                statement=statement,
                drained=lambda: _wait_done(servers, rival, process),
            )
        except OverloadedError:
            return f"fell behind at {rate:g}/s"
        cpu, postgres = cpu_seconds(process.pid) - cpu, _postgres_s(servers) - postgres
    tally, done_s = measured.tally, measured.done.seconds
    p50, p99 = tally.quantile_ms(0.5), tally.quantile_ms(0.99)
    found.latency_ms.setdefault(rate, []).append((p50, p99))
    found.cores.setdefault(rate, []).append((cpu / done_s, postgres / done_s))
    found.lost += tally.lost
    found.duplicated += tally.duplicated
    return f"{rate:g}/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {cpu / done_s:.0%} of a core"


def _postgres_s(servers: Rig) -> float:
    """Processor seconds of Postgres so far; 0: it is not our own."""
    return servers.server_cpu_seconds().get("postgres", 0.0)


def _length(servers: Rig) -> int:
    with contextlib.closing(servers.redis()) as client:
        return int(client.xlen(STREAM))
