"""`python -m bench <scenario>`: the command line. Exit codes: 0 target met, 1 missed or failed, 2 bad usage."""

import sys

import click

from bench.ceiling import ceiling
from bench.cluster import cluster
from bench.counters import counters
from bench.crash import crash
from bench.document import document
from bench.drain import drain
from bench.flood import flood
from bench.growth import growth
from bench.idle import idle
from bench.latency import latency
from bench.order import order
from bench.outage import outage
from bench.peers import peers
from bench.realtime import realtime
from bench.record import run_all
from bench.scale import scale
from bench.shards import shards
from bench.size import size
from bench.sla import sla
from bench.snapshot import snapshot
from bench.soak import soak
from bench.techniques import techniques
from bench.traces import traces
from bench.writers import writers
from dispatcher.core.errors import DispatcherError


class Whole(click.Group):
    """Lists the scenarios in their order, and each one's first sentence to its end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """click would cut each to one line."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=500)) for name, command in self.commands.items()]
            )


@click.group(cls=Whole, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def bench() -> None:
    """Measure the dispatcher. Servers of its own by default; see bench/README.md before believing a figure."""


for scenario in (
    sla,
    latency,
    realtime,
    drain,
    writers,
    snapshot,
    growth,
    size,
    outage,
    crash,
    flood,
    scale,
    shards,
    cluster,
    order,
    ceiling,
    idle,
    soak,
    peers,
    techniques,
    traces,
    counters,
    run_all,
    document,
):
    bench.add_command(scenario)


def main() -> None:
    """Errors a person can mend are one line, without a traceback."""
    try:
        bench()
    except DispatcherError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
