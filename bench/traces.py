"""What DISPATCH_OTEL costs where nothing was sampled: the drain with it and without, in turn."""

import sys
from statistics import median

import click

from bench.backlog import WorkedOff, work_off
from bench.options import Where, common, rounds, rows
from bench.progress import Legs
from bench.report import Report, below, complete
from bench.servers import Rig

PLAN = {"off": {}, "on": {"DISPATCH_OTEL": "true", "OTEL_TRACES_EXPORTER": "none"}}
MOST = 1.05  # two rounds of the same differ by as much
# Every event carries the context of a span that was not sampled: none of them gets a span, and each is looked at.
NOT_SAMPLED = """
UPDATE messaging.message_outbox
SET headers = coalesce(headers, '{}') || '{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}'
"""
NOTE = (
    "Each event carries the traceparent of a span that was not sampled. CPU: processor time of the dispatcher for "
    "1,000 events; the median of the rounds."
)


@click.command()
@rows(100_000)
@rounds(3)
@common
def traces(rows: int, rounds: int, where: Where) -> None:
    """The drain with DISPATCH_OTEL and without, where no event was sampled."""
    with where.rig() as servers, Legs(len(PLAN) * rounds) as legs:
        report = Report("traces", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        found: dict[str, list[WorkedOff]] = {name: [] for name in PLAN}
        for turn in range(rounds):
            for name in list(PLAN)[:: 1 if turn % 2 == 0 else -1]:
                legs.begin(f"DISPATCH_OTEL {name}")
                found[name].append(work_off(servers, rows, legs, settings=PLAN[name], after_fill=_none_sampled))
                legs.end(f"{name}: {found[name][-1].cpu_s_per_1000:.4f} CPU s for 1,000 events")
        cpu = {name: median(leg.cpu_s_per_1000 for leg in each) for name, each in found.items()}
        every = [leg for each in found.values() for leg in each]
        report.rows = [
            {
                "DISPATCH_OTEL": name,
                "events/s": f"{median(leg.per_second for leg in each):,.0f}",
                "CPU s / 1,000": f"{cpu[name]:.4f}",
                "of off": f"{cpu[name] / cpu['off']:.0%}",
                "peak MB": f"{max(leg.peak_memory_bytes for leg in each) / 1e6:,.0f}",
            }
            for name, each in found.items()
        ]
        report.raw = {name: [leg.as_dict() for leg in each] for name, each in found.items()}
        report.targets = [
            complete("all:", sum(leg.lost for leg in every), sum(leg.duplicated for leg in every)),
            below("CPU with DISPATCH_OTEL, of that without", cpu["on"] / cpu["off"], MOST),
        ]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _none_sampled(servers: Rig) -> None:
    servers.script(NOT_SAMPLED)
