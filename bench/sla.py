"""The SLA: a constant rate for a time, p95 under 1.5 s, hardly an error, nothing lost, nothing doubled. `make bench`.

With --find-max it then looks for the highest rate that still holds it: doubling until one does not, then halving the
gap. The load is what gives way first on a small machine; the report says when it was.
"""

import sys
import urllib.request
from dataclasses import dataclass
from typing import Any

import click

from bench.charts import Chart
from bench.options import Where, common
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, Target, below, complete
from bench.servers import Rig
from bench.steady import COLUMNS, NOTE, OverloadedError, by_second, cores_used, raw, row, steady
from dispatcher.demo.measure import Measurement
from dispatcher.demo.process import DispatcherProcess

P95_MS, ERROR_RATE = 1_500.0, 0.02
START_RATE, STEPS = 4_000.0, 8
PRODUCED = 0.97  # of the rate asked for, or it was not the rate that was held
BEHIND_MS_PER_S = 20.0  # a deficit of 2 %
ERRORS = (
    "error rate: rows that failed or were buried and ticks that ended in an error, over rows picked and ticks, from "
    "the dispatcher's own metrics."
)


@dataclass(slots=True)
class Held:
    """One rate that was tried."""

    rate: float
    measured: Measurement | None  # None: it fell behind and was given up
    cpu: float = 0.0
    errors: float = 0.0

    @property
    def load_gave_way(self) -> bool:
        """The generator, not the dispatcher, was too slow."""
        if self.measured is None:
            return False
        done = self.measured.done
        return done.latest_s * 1000 > P95_MS or done.events / done.seconds < PRODUCED * self.rate

    @property
    def falls_behind(self) -> bool:
        """Whether the latency grew so fast, from second to second, that a longer run would have broken the SLA."""
        if self.measured is None:
            return True
        medians = [ms for _, ms in by_second(self.measured, 0.5)][1:-1]
        third = len(medians) // 3
        return third > 0 and min(medians[-third:]) - max(medians[:third]) > BEHIND_MS_PER_S * 2 * third

    @property
    def kept(self) -> bool:
        """Whether the SLA held, at the rate that was asked for."""
        return not self.load_gave_way and all(target.met for target in self.targets())

    def targets(self) -> list[Target]:
        """The SLA, point by point."""
        name = f"{self.rate:g}/s:"
        if self.measured is None:
            return [Target(f"{name} fell behind without end", met=False)]
        tally = self.measured.tally
        return [
            Target(f"{name} {'falls' if self.falls_behind else 'never fell'} behind", not self.falls_behind),
            below(f"{name} p95", tally.quantile_ms(0.95), P95_MS, " ms"),
            below(f"{name} error rate", self.errors * 100, ERROR_RATE * 100, " %"),
            complete(name, tally.lost, tally.duplicated),
        ]


@click.command()
@click.option("--rate", type=click.FloatRange(1, 50_000), default=1_000.0, show_default=True, help="Events a second.")
@click.option("--seconds", type=click.FloatRange(5, 36_000), default=45.0, show_default=True, help="Timed.")
@click.option("--warm-up", "warmup_s", type=click.FloatRange(0, 60), default=5.0, show_default=True, help="Untimed.")
@click.option("--find-max/--no-find-max", default=False, show_default=True, help="Also look for the highest rate.")
@click.option("--step-seconds", type=click.FloatRange(3, 600), default=6.0, show_default=True, help="Each rate tried.")
@common
def sla(
    rate: float,
    seconds: float,
    warmup_s: float,
    find_max: bool,
    step_seconds: float,
    where: Where,
) -> None:
    """What operators accept a deployment by; exit code 1 when it does not hold."""
    with where.rig() as servers, Legs(1 + STEPS * find_max) as legs:
        options = {"events/s": rate, "seconds": seconds, "warm-up": warmup_s, "find the highest": find_max}
        report = Report("sla", options, [], [], notes=[NOTE, ERRORS])
        dispatcher = servers.start_dispatcher()
        first = _try(servers, dispatcher, rate, seconds, warmup_s, legs)
        tried = [first]
        if find_max:
            best, why = _search(servers, dispatcher, rate if first.kept else 0.0, step_seconds, tried, legs)
            report.notes = [*report.notes, f"The highest rate that held the SLA: {best:,.0f} events/s; {why}."]
        report.rows = [_row(each) for each in tried]
        report.raw = [
            {"errors": each.errors, "kept": each.kept, **raw(each.rate, each.measured, each.cpu)}
            if each.measured
            else {"rate": each.rate, "kept": False}
            for each in tried
        ]
        report.targets = first.targets()
        if first.load_gave_way:
            report.targets = [*report.targets, Target("the load was produced in time", met=False)]
        if first.measured is not None:
            curves: dict[str, Any] = {f"p{q * 100:g}": by_second(first.measured, q) for q in (0.5, 0.95)}
            report.charts = [Chart("seconds", f"{rate:g} events/s, by second of commit", "s", "ms", curves)]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _search(
    servers: Rig, dispatcher: DispatcherProcess, held: float, seconds: float, tried: list[Held], legs: Legs
) -> tuple[float, str]:
    """The highest rate that held, to within an eighth, and what gave way above it."""
    low, high, why = held, 0.0, "no rate failed"
    rate = max(START_RATE, 2 * low)
    for _ in range(STEPS):
        found = _try(servers, dispatcher, rate, seconds, 2.0, legs)
        tried.append(found)
        if found.kept:
            low = rate
        else:
            high = rate
            what = "the load could not be produced" if found.load_gave_way else "the SLA was broken"
            why = f"at {rate:,.0f}/s {what}"
        if high and high - low <= high / 8:
            break
        rate = 2 * low if not high else (low + high) / 2
    return low, why


def _try(servers: Rig, dispatcher: DispatcherProcess, rate: float, seconds: float, warmup_s: float, legs: Legs) -> Held:
    legs.begin(f"{rate:g} events/s")
    servers.empty()
    cpu, before = cpu_seconds(dispatcher.pid), _counts(dispatcher)
    try:
        measured = steady(servers, [dispatcher], rate, seconds, warmup_s, legs, trace=True, give_up_behind_s=4.0)
    except OverloadedError:
        legs.end(f"{rate:g}/s: fell behind")
        return Held(rate, None)
    bad, all_ = (after - start for after, start in zip(_counts(dispatcher), before, strict=True))
    held = Held(rate, measured, cores_used([dispatcher.pid], cpu, measured), bad / max(1.0, all_))
    verdict = "holds" if held.kept else "the load gave way" if held.load_gave_way else "broken"
    legs.end(f"{rate:g}/s: p95 {measured.tally.quantile_ms(0.95):.2f} ms, {verdict}")
    return held


def _counts(dispatcher: DispatcherProcess) -> tuple[float, float]:
    """What went wrong so far and what was tried, from /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{dispatcher.port}/metrics", timeout=10) as answer:
        samples = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))

    def total(*names: str) -> float:
        return sum(float(samples.get(name, 0.0)) for name in names)

    ticks = "messaging_dispatch_ticks_total"
    # A buried row is among the failed ones.
    bad = total("messaging_outbox_failed_total", f'{ticks}{{result="error"}}')
    return bad, total("messaging_outbox_picked_total", f'{ticks}{{result="ok"}}', f'{ticks}{{result="error"}}')


def _row(held: Held) -> dict[str, str]:
    if held.measured is None:
        return dict.fromkeys(COLUMNS, "") | {"events/s": f"{held.rate:g}", "errors": "", "SLA": "fell behind"}
    verdict = "held" if held.kept else "load too slow" if held.load_gave_way else "broken"
    return {**row(held.rate, held.measured, held.cpu), "errors": f"{held.errors:.2%}", "SLA": verdict}
