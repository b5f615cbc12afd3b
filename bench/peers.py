"""The same relay work by others, at their documented best: procrastinate, PgQueuer, faststream-outbox; same servers.

A row becomes an XADD to the same stream and is then marked done; the same producer, consumer and measure for all. What
they publish with is the dispatcher's own wire to Redis, so that what is compared is the queue. Extra `peers`.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import click

from bench.backlog import SAMPLES, fill, samples, until_published
from bench.charts import Chart
from bench.options import Where, common, rounds
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, Target, complete
from bench.servers import STREAM, Rig
from bench.steady import OverloadedError, steady
from bench.stream import look
from dispatcher.core.errors import DispatcherError, Misconfigured
from dispatcher.demo.process import DispatcherProcess

OURS = "dispatcher"
AHEAD = 1.5
RATES = (50.0, 500.0)
# Of the backlog: each peer works some seconds.
SHARES = {OURS: 1.0, "PgQueuer": 0.3, "faststream-outbox": 0.2, "procrastinate": 0.05}


@dataclass(slots=True)
class Found:
    """What was measured of one peer."""

    per_second: list[float] = field(default_factory=list)
    cpu_s_per_1000: list[float] = field(default_factory=list)
    latency_ms: dict[float, tuple[float, float]] = field(default_factory=dict)  # by rate: p50 and p99
    lost: int = 0
    duplicated: int = 0


@click.command()
@click.option(
    "--rows", type=click.IntRange(1_000, 900_000), default=100_000, show_default=True, help="Ours; less for others."
)
@rounds(2, "Of each backlog.")
@click.option("--seconds", type=click.FloatRange(2, 3_600), default=12.0, show_default=True, help="Each steady rate.")
@common
def peers(
    rows: int,
    rounds: int,
    seconds: float,
    where: Where,
) -> None:
    """procrastinate, PgQueuer and faststream-outbox at the same work."""
    rivals = _rivals()
    names = [OURS, *rivals]
    with where.rig() as servers, Legs(len(names) * (rounds + len(RATES))) as legs:
        versions = {name: version(rivals[name].INSTALLED) for name in rivals}
        report = Report("peers", {"rows": rows, "rounds": rounds, "seconds": seconds, **versions}, [], [])
        for rival in rivals.values():
            asyncio.run(rival.prepare(servers.database_url))
        found = {name: Found() for name in names}
        for turn in range(rounds):
            for name in names if turn % 2 == 0 else names[::-1]:
                legs.begin(f"{name}: backlog")
                _drain(servers, name, rivals.get(name), max(500, round(rows * SHARES[name])), found[name], legs)
                legs.end(f"{name}: {found[name].per_second[-1]:,.0f} events/s")
        for rate in RATES:
            for name in names:
                legs.begin(f"{name}: {rate:g} events/s")
                legs.end(f"{name}: {_latency(servers, name, rivals.get(name), rate, seconds, found[name], legs)}")
        report.rows = [_row(name, each) for name, each in found.items()]
        report.raw = {name: _raw(each) for name, each in found.items()}
        report.notes = [
            "Backlog: from the first entry's stream id to the last one's. CPU: the relay process's own, from its first "
            "entry to the last row marked done. Commit to consumer as in `latency`.",
            *(f"{name} {versions[name]}: {rival.CHANGES}." for name, rival in rivals.items()),
        ]
        report.targets = _targets(found)
        bars: dict[str, Any] = {"events/s": [(name, median(each.per_second)) for name, each in found.items()]}
        p99: dict[str, Any] = {
            f"{rate:g} events/s": [(name, each.latency_ms.get(rate, (0.0, 0.0))[1]) for name, each in found.items()]
            for rate in RATES
        }
        report.charts = [
            Chart("rate", "Backlog worked off", "", "events/s", bars, kind="bars"),
            Chart("p99", "Commit to consumer, p99 (none: fell behind)", "", "ms", p99, kind="bars", log_y=True),
        ]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _rivals() -> dict[str, Any]:
    """Those that are installed. Raises Misconfigured when none is."""
    from bench.rivals import RIVALS

    installed = {}
    for name, module in RIVALS.items():
        with contextlib.suppress(PackageNotFoundError):
            version(module.INSTALLED)
            installed[name] = module
    if not installed:
        raise Misconfigured("no peer is installed: `make bench-all` installs them")
    return installed


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
        }
        command = (sys.executable, "-m", "bench.rivals", name)
        log = servers.folder / f"{name}.log"
        process = servers.stack.enter_context(DispatcherProcess(settings, log, command=command))
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
        cpu, at_first = cpu_seconds(process.pid), _length(servers)
        until_published(servers, [process], rows, legs)
        _wait_done(servers, rival, process)
        cpu = cpu_seconds(process.pid) - cpu
    looked = look(servers, None if rival is None else set())
    found.per_second.append(looked.entries / looked.seconds)
    found.cpu_s_per_1000.append(cpu / max(1, rows - at_first) * 1000)
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
    tally = measured.tally
    found.latency_ms[rate] = tally.quantile_ms(0.5), tally.quantile_ms(0.99)
    found.lost += tally.lost
    found.duplicated += tally.duplicated
    return f"{rate:g}/s: p50 {found.latency_ms[rate][0]:.2f} ms, p99 {found.latency_ms[rate][1]:.2f} ms"


def _length(servers: Rig) -> int:
    with contextlib.closing(servers.redis()) as client:
        return int(client.xlen(STREAM))


def _row(name: str, found: Found) -> dict[str, str]:
    def shown(rate: float, which: int) -> str:
        return f"{found.latency_ms[rate][which]:.2f}" if rate in found.latency_ms else "fell behind"

    return {
        "relay": name,
        "backlog, events/s": f"{median(found.per_second):,.0f}",
        "CPU s / 1,000": f"{median(found.cpu_s_per_1000):.4f}",
        **{f"{rate:g}/s p50 ms": shown(rate, 0) for rate in RATES},
        **{f"{rate:g}/s p99 ms": shown(rate, 1) for rate in RATES},
        "lost": f"{found.lost:,}",
        "doubled": f"{found.duplicated:,}",
    }


def _raw(found: Found) -> dict[str, Any]:
    return {
        "per_second": found.per_second,
        "cpu_s_per_1000": found.cpu_s_per_1000,
        "latency_ms": {f"{rate:g}": pair for rate, pair in found.latency_ms.items()},
        "lost": found.lost,
        "duplicated": found.duplicated,
    }


def _targets(found: dict[str, Found]) -> list[Target]:
    ours, others = found[OURS], {name: each for name, each in found.items() if name != OURS}
    best = max(others, key=lambda name: median(others[name].per_second))
    ratio = median(ours.per_second) / median(others[best].per_second)
    targets = [
        complete("ours:", ours.lost, ours.duplicated),
        Target(f"{ratio:.1f} times the backlog rate of the best peer ({best}), wanted ≥ {AHEAD:g}", ratio >= AHEAD),
    ]
    for rate in RATES:
        for which, name in enumerate(("p50", "p99")):
            rivals = [each.latency_ms[rate][which] for each in others.values() if rate in each.latency_ms]
            mine = ours.latency_ms.get(rate, (float("inf"),) * 2)[which]
            if rivals:
                text = f"{rate:g}/s: {name} {mine:.2f} ms, the best peer's {min(rivals):.2f}"
                targets.append(Target(text, mine < min(rivals)))
    return targets
