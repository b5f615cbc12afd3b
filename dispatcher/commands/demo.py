"""`dispatcher demo`: the whole path on this machine, with servers of its own, and a verdict."""

import sys
from collections.abc import Iterator
from random import Random

import click
from click.core import ParameterSource
from rich.console import Console

from dispatcher.commands.options import database_options
from dispatcher.commands.progress import rows_progress
from dispatcher.core.counted import counted
from dispatcher.demo.cluster import run_cluster
from dispatcher.demo.order import run_order
from dispatcher.demo.run import DemoPlan
from dispatcher.demo.run import run as run_once
from dispatcher.demo.samples import STATUSES, SampleRow, as_sql, samples
from dispatcher.demo.screen import LineScreen, LivePanel, Screen, Watch
from dispatcher.demo.seed import seed
from dispatcher.demo.stay import RATE as STAY_RATE
from dispatcher.demo.stay import stay
from dispatcher.settings import Settings

SEEDING = ("rows", "statuses", "random_seed", "database_url", "dsn")


@click.command()
@click.option("--rate", type=click.FloatRange(1, 20_000), default=200.0, show_default=True, help="Events a second.")
@click.option("--seconds", type=click.FloatRange(1, 3_600), default=15.0, show_default=True, help="How long.")
@click.option(
    "--http-port", type=click.IntRange(0, 65_535), default=0, help="Port of the sidecar.  [default: any free one]"
)
@click.option(
    "--stay",
    "stays",
    is_flag=True,
    help="Go on until Ctrl-C; keys break and mend Redis, Postgres and a dispatcher while you look at the console.",
)
@click.option(
    "--cluster",
    "on_cluster",
    is_flag=True,
    help="On a Valkey Cluster of six processes; a primary is killed half-way.",
)
@click.option(
    "--order",
    "in_order",
    is_flag=True,
    help="Three dispatchers keep the order of 300 aggregates; one is killed, one stops, one joins.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to standard error.")
@click.option("--seed-only", is_flag=True, help="Start nothing: write sample rows, as SQL or into a database.")
@click.option("--rows", type=click.IntRange(1), default=100, show_default=True, help="With --seed-only: how many.")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(STATUSES),
    multiple=True,
    help="With --seed-only: rows of this status (repeatable).  [default: of each]",
)
@click.option("--seed", "random_seed", type=int, help="With --seed-only: the same rows for the same number.")
@database_options("With --seed-only: copy them into this database.")
@click.pass_context
def demo(
    context: click.Context,
    /,
    rate: float,
    seconds: float,
    http_port: int,
    stays: bool,
    on_cluster: bool,
    in_order: bool,
    as_json: bool,
    seed_only: bool,
    rows: int,
    statuses: tuple[str, ...],
    random_seed: int | None,
    **flags: str | None,
) -> None:
    """Start Postgres, Valkey and the dispatcher, send sample events through, print the verdict.

    Needs nothing installed but the 'embedded' extra, and leaves nothing behind. Exit code 0 only when nothing was
    lost or doubled and p95 from commit to consumer is under 1.5 s.

    With --stay it measures nothing and goes on: 20 events a second (or --rate), the console at port 8080 if it is free.

    With --cluster the stream has eight shards on three primaries, one of which is killed: the table says what was lost
    and doubled, and how late the shards were that were on it, and those that were not.

    With --order three dispatchers keep the order within each of 300 aggregates while one of them is killed, one
    stops and another one joins: the table says how many events were out of order, lost and doubled.

    With --seed-only it starts nothing and writes sample rows instead: a few as SQL, or millions by COPY.

    \b
    dispatcher demo --seed-only | psql "$DATABASE_URL"
    dispatcher demo --seed-only --rows 1000000 --status pending --database-url "$DATABASE_URL"
    """
    _require_fitting(context, seed_only, stays)
    if seed_only:
        chosen = samples(Random(random_seed), statuses or STATUSES)  # noqa: S311
        _write_samples(chosen, rows, flags)
        return
    console = Console()
    if stays:
        given = context.get_parameter_source("rate") == ParameterSource.COMMANDLINE
        stay(rate if given else STAY_RATE, http_port, Watch(console))
        console.print("Stopped; nothing is left of it.")
        return
    live = console.is_terminal and not as_json
    screen: Screen = LivePanel(console, seconds) if live else LineScreen(seconds, to_stderr=as_json)
    run = run_cluster if on_cluster else run_order if in_order else run_once
    report = run(DemoPlan(rate, seconds, http_port), screen)
    if as_json:
        click.echo(report.as_json())
    else:
        report.show(console)
    sys.exit(0 if report.verdict.passed else 1)


def _require_fitting(context: click.Context, seed_only: bool, stays: bool) -> None:
    """Refuse an option that would do nothing."""
    idle: tuple[str, ...] = (
        ("rate", "seconds", "http_port", "stays", "on_cluster", "in_order", "as_json") if seed_only else SEEDING
    )
    if stays and not seed_only:
        idle += ("seconds", "as_json", "on_cluster", "in_order")
    for option in context.command.params:
        if option.name in idle and context.get_parameter_source(option.name) == ParameterSource.COMMANDLINE:
            name = option.opts[0]
            with_ = "--seed-only" if seed_only else "--stay" if option.name not in SEEDING else None
            raise click.UsageError(f"{name} does nothing with {with_}" if with_ else f"{name} needs --seed-only")


def _write_samples(rows: Iterator[SampleRow], count: int, flags: dict[str, str | None]) -> None:
    """To standard output, or into the database that a flag names: never into one that only the environment names."""
    if not any(flags.values()):
        for part in as_sql(rows, count):
            click.echo(part, nl=False)
        return
    settings = Settings.load_some(("database_url",), {}, flags)
    with rows_progress("Copying", count) as progress:
        seed(settings["database_url"], rows, count, progress)
    click.echo(f"Copied {counted(count, 'row')}.")
