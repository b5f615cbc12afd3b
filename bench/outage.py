"""Redis away under load: nothing lost or buried, and how soon after its return all is drained and the SLA holds."""

import sys
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any

import click

from bench.charts import Chart
from bench.faults import Proxy
from bench.options import Where, common
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, Target, below, complete
from bench.steady import by_second, cores_used, quantile, raw, steady
from dispatcher.demo.measure import Measurement

SLA_MS = 1_500.0
FIRST_S = 1.0
BEFORE_S = 10.0
NOTE = (
    "Redis is taken away by a proxy that resets the dispatcher's connections and refuses new ones; producer and "
    "consumer go on. First event: from Redis's return to the first entry of an event committed while it was away. "
    "Drained: to the last of those. Under the SLA: to the first commit after which every second's p95 is below 1.5 s."
)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from Redis's return."""

    first_s: float
    drained_s: float
    under_sla_s: float


@click.command()
@click.option("--rate", type=click.FloatRange(1, 50_000), default=1_000.0, show_default=True, help="Events a second.")
@click.option("--away", "away_s", type=click.FloatRange(1, 3_600), default=30.0, show_default=True, help="Seconds.")
@click.option("--after", "after_s", type=click.FloatRange(5, 3_600), default=20.0, show_default=True, help="Seconds.")
@common
def outage(
    rate: float,
    away_s: float,
    after_s: float,
    where: Where,
) -> None:
    """Redis away 30 s under load: time to drain, and to be back under the SLA."""
    total_s = BEFORE_S + away_s + after_s
    with where.rig() as servers, Legs(1) as legs:
        report = Report("outage", {"events/s": rate, "away": away_s, "seconds": total_s}, [], [], notes=[NOTE])
        proxy = servers.stack.enter_context(Proxy(servers.redis_url))
        dispatcher = servers.start_dispatcher(REDIS_URL=proxy.url)
        servers.empty()
        cpu = cpu_seconds(dispatcher.pid)
        moments: list[int] = []  # it went, it came back

        def meanwhile(elapsed_s: float) -> None:
            if not moments and elapsed_s >= BEFORE_S:
                moments.append(perf_counter_ns())
                proxy.away()
            elif len(moments) == 1 and perf_counter_ns() - moments[0] >= away_s * 1e9:
                proxy.back()
                moments.append(perf_counter_ns())

        legs.begin(f"{rate:g} events/s, Redis away for {away_s:g} s")
        measured = steady(
            servers, [dispatcher], rate, total_s, 0.0, legs, trace=True, meanwhile=meanwhile, grace_s=away_s + 30
        )
        went, came = moments
        found = recovery(measured.tally.trace or [], went, came)
        legs.end(f"drained {found.drained_s:.1f} s after Redis's return")
        dead = int(servers.value("SELECT count(*) FROM messaging.message_outbox WHERE status = 'dead' OR attempts > 0"))
        used = cores_used([dispatcher.pid], cpu, measured)
        report.rows = [_row(rate, away_s, measured, found, dead)]
        report.raw = {**asdict(found), "buried": dead, **raw(rate, measured, used)}
        report.targets = [
            complete(f"{rate:g}/s:", measured.tally.lost, measured.tally.duplicated),
            Target(f"{dead:,} rows buried or blamed for the outage, wanted none", not dead),
            below("first event after the return", found.first_s, FIRST_S, " s"),
        ]
        curves: dict[str, Any] = {"p95": by_second(measured)}
        title = f"Redis away from {BEFORE_S:g} s to {BEFORE_S + away_s:g} s"
        report.charts = [Chart("seconds", title, "s, by commit", "ms", curves)]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def recovery(trace: list[tuple[int, int]], went: int, came: int) -> Recovery:
    """From the moments of commit and receipt, and those when Redis went and came back; all in nanoseconds."""
    stuck = [received for committed, received in trace if went <= committed < came and received >= came]
    late: dict[int, list[int]] = {}
    for committed, received in trace:
        if committed >= came:
            late.setdefault((committed - came) // 1_000_000_000, []).append(received - committed)
    over = [second + 1 for second, found in late.items() if quantile(found, 0.95) / 1e6 >= SLA_MS]
    return Recovery(
        first_s=(min(stuck, default=came) - came) / 1e9,
        drained_s=(max(stuck, default=came) - came) / 1e9,
        under_sla_s=float(max(over, default=0)),
    )


def _row(rate: float, away_s: float, measured: Measurement, found: Recovery, dead: int) -> dict[str, str]:
    tally = measured.tally
    return {
        "events/s": f"{rate:g}",
        "away s": f"{away_s:g}",
        "events": f"{tally.committed:,}",
        "first event s": f"{found.first_s:.2f}",
        "drained s": f"{found.drained_s:.2f}",
        "under the SLA s": f"{found.under_sla_s:.0f}",
        "slowest s": f"{tally.latency.maximum / 1e9:.1f}",
        "lost": f"{tally.lost:,}",
        "doubled": f"{tally.duplicated:,}",
        "buried": f"{dead:,}",
    }
