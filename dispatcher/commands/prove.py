"""`dispatcher prove`: proof events through the real servers, and a report that can be shown."""

import json
import os

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.commands.options import database, json_output, redis_url, warn_of_unknown_variables
from dispatcher.core.counted import counted
from dispatcher.core.errors import Misconfigured
from dispatcher.demo.report import latency_rows
from dispatcher.demo.screen import LineScreen, LivePanel, Screen
from dispatcher.demo.verdict import SLA_P95_MS
from dispatcher.prove.run import Proof, ProofPlan
from dispatcher.prove.run import prove as run
from dispatcher.settings import Settings


@click.command()
@click.option("--seconds", type=click.FloatRange(1, 3_600), default=60.0, show_default=True, help="How long.")
@click.option("--rate", type=click.FloatRange(1, 2_000), default=50.0, show_default=True, help="Events a second.")
@click.option("--disturb", is_flag=True, help="End one of its own connections every 3 s, in turn.")
@click.option(
    "--stream-name", metavar="KEY", help="The stream of the proof events.  [default: DISPATCH_STREAM_NAME + ':prove']"
)
@database
@click.option(
    "--listen-url",
    metavar="URL",
    help="A direct connection, if the database URL leads to a pooler.  [DISPATCH_LISTEN_URL]",
)
@redis_url
@json_output
def prove(
    seconds: float,
    rate: float,
    disturb: bool,
    stream_name: str | None,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Send proof events through your own servers, and say what was lost, doubled and late.

    Commits events of the type 'dispatcher.prove', relays them to a stream of their own with the settings, the role
    and the user of a dispatcher, and reads them there. No dispatcher takes these events and no consumer gets them, so
    it can run beside both. At the end it deletes the rows and the stream.

    \b
    dispatcher prove --seconds 10
    dispatcher prove --disturb --json > proof.json

    Exit code 0 only when nothing was lost or doubled, all rows are marked sent and p95 from the commit to the stream is
    under 1.5 s. It proves the way of an event through these servers, not the dispatchers that run: look at those with
    `dispatcher status`. While one of them holds the doorbell, this relay polls every 20 ms, and the latency says so.
    """
    warn_of_unknown_variables(flags)
    settings = Settings.load(os.environ, flags)
    if not settings.redis_url:
        raise Misconfigured("REDIS_URL is needed: proof events go to a stream")
    stream = stream_name or f"{settings.stream_name}:prove"
    if stream in (*settings.layout.streams, *settings.layout.keys):
        raise Misconfigured(f"--stream-name {stream} is the stream of the events: it would be deleted at the end")
    console = Console()
    live = console.is_terminal and not as_json
    screen: Screen = LivePanel(console, seconds) if live else LineScreen(seconds, to_stderr=as_json)
    screen.step(f"{rate:g} proof events/s for {seconds:g} s to the stream {stream}")
    proof = anyio.run(run, settings, ProofPlan(rate, seconds, stream, disturb), screen, lambda _: None)
    click.echo(as_text(proof)) if as_json else show(proof, console)
    return 1 if proof.reasons else 0


def as_text(proof: Proof) -> str:
    """One JSON object, latencies in milliseconds; its keys are in docs/how-to/prove.md."""
    return json.dumps(
        {
            **{name: value for name, value in proof.tally.summary().items() if name not in ("early", "timed")},
            "rows": proof.statuses,
            "answers_lost": proof.unknown,
            "disturbed": list(proof.disturbed),
            "not_disturbed": list(proof.refused),
            "left_behind": list(proof.left),
            "proven": not proof.reasons,
            "reasons": list(proof.reasons),
        }
    )


def show(proof: Proof, console: Console) -> None:
    """A table, then what speaks against the proof, could not be ended, or was left behind."""
    tally = proof.tally
    table = Table(title="From the commit to the stream", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("events committed", f"{tally.committed:,}")
    table.add_row("inserts whose answer was lost", f"{proof.unknown:,}")
    table.add_row("rows marked sent", f"{proof.statuses.get('sent', 0):,}")
    table.add_row("lost", f"{tally.lost:,}")
    table.add_row("doubled", f"{tally.duplicated:,}", end_section=True)
    for row in latency_rows(tally.latency, decimals=2):
        table.add_row(*row)
    table.add_section()
    for what in sorted(set(proof.disturbed)):
        table.add_row(f"ended: {what}", counted(proof.disturbed.count(what), "time"))
    word = Text("NOT PROVEN", style="bold red") if proof.reasons else Text("proven", style="bold green")
    table.add_row(f"none lost or doubled, p95 under {SLA_P95_MS / 1000:g} s", word)
    console.print(table)
    for reason in proof.reasons:
        console.print(Text(reason, style="red"))
    for what in proof.refused:
        console.print(Text(f"Could not be ended here: {what}", style="yellow"))
    for what in proof.left:
        console.print(Text(f"Left behind: {what}", style="yellow"))
