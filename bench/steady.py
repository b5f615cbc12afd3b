"""A steady load from a process of its own, a consumer blocked on the stream, and what a user would have felt."""

from collections.abc import Callable, Sequence
from typing import Any

from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.servers import STREAM, Alive, Rig
from dispatcher.core.errors import DispatcherError
from dispatcher.demo.consumer import DemoReader
from dispatcher.demo.measure import Measurement, MeasurementHooks, measure
from dispatcher.demo.producer import Load, connections_for
from dispatcher.demo.tally import Tally

MAX_GROUP = 16
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
COLUMNS = (
    *("events/s", "achieved", *(f"{name} ms" for name in QUANTILES), "max ms", "lost", "doubled", "early", "shared"),
    *("latest ms", "cpu"),
)
NOTE = (
    "Each event is a transaction of its own, except those under 'shared': begun when more were overdue than there were "
    "connections. 'early': at the consumer before the commit call had returned, counted as 0. 'latest': how far behind "
    "its due time the most belated event was begun. 'cpu': the dispatchers' own, of one core."
)


class OverloadedError(DispatcherError):
    """What is measured falls behind without end; going on would only wait."""


def steady(
    servers: Rig,
    running: Sequence[Alive],
    rate: float,
    seconds: float,
    warmup_s: float,
    legs: Legs,
    *,
    trace: bool = False,
    meanwhile: Callable[[float], None] = lambda _elapsed_s: None,
    give_up_behind_s: float | None = None,
    statement: str | None = None,
    drained: Callable[[], None] | None = None,
    grace_s: float = 10.0,
) -> Measurement:
    """One rate for so long. `meanwhile` hears a few times a second how long it has been going, and may act.

    Raises OverloadedError when more than `give_up_behind_s` seconds' worth of events are under way.
    """
    total_s = seconds + warmup_s

    def progress(tally: Tally, elapsed_s: float) -> None:
        legs.within(elapsed_s / total_s)
        meanwhile(elapsed_s)
        if give_up_behind_s is not None and tally.lost > rate * give_up_behind_s:
            raise OverloadedError(f"{tally.lost:,} events under way at {rate:g}/s")

    def check() -> None:
        for each in running:
            each.check()

    return measure(
        Load(
            servers.database_url,
            rate,
            total_s,
            connections_for(rate),
            1 if statement else MAX_GROUP,
            statement=statement,
        ),
        DemoReader(servers.redis_url, STREAM),
        MeasurementHooks(
            progress=progress,
            check=check,
            before_end=drained or (lambda: servers.wait_drained(running[0])),
        ),
        warmup_s=warmup_s,
        grace_s=grace_s,
        trace=trace,
    )


def cores_used(pids: Sequence[int], before: float, measured: Measurement) -> float:
    """Share of a core these processes used since they had used `before` seconds."""
    return (sum(map(cpu_seconds, pids)) - before) / measured.done.seconds


def row(rate: float, measured: Measurement, cpu: float) -> dict[str, str]:
    """A line of the table."""
    tally, done = measured.tally, measured.done
    return {
        "events/s": f"{rate:g}",
        "achieved": f"{done.events / done.seconds:,.0f}",
        **{f"{name} ms": f"{tally.quantile_ms(q):.2f}" for name, q in QUANTILES.items()},
        "max ms": f"{tally.latency.maximum / 1e6:.2f}",
        "lost": f"{tally.lost:,}",
        "doubled": f"{tally.duplicated:,}",
        "early": f"{tally.early:,}",
        "shared": f"{done.grouped / done.events:.1%}",
        "latest ms": f"{done.latest_s * 1e3:.1f}",
        "cpu": f"{cpu:.0%}",
    }


def raw(rate: float, measured: Measurement, cpu: float) -> dict[str, Any]:
    """For JSON."""
    return {
        "rate": rate,
        **measured.tally.summary(),
        **measured.done._asdict(),
        "dispatcher_cores": round(cpu, 3),
        "histogram_ns": measured.tally.latency.as_dict(),
    }


def by_second(measured: Measurement, q: float = 0.95) -> list[tuple[float, float]]:
    """A quantile of the latency in ms for each second of commits since the start. The run must have been traced."""
    seconds: dict[int, list[int]] = {}
    for committed, received in measured.tally.trace or ():
        seconds.setdefault((committed - measured.start_ns) // 1_000_000_000, []).append(max(0, received - committed))
    return [(float(second), quantile(found, q) / 1e6) for second, found in sorted(seconds.items())]


def quantile(values: Sequence[int], q: float) -> int:
    """The smallest value that at least a share `q` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1)]
