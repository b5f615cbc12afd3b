"""`dispatcher demo`: the whole path on this machine, with servers of its own, and a verdict."""

import json
import sys

import click
from rich.console import Console

from dispatcher.demo.run import Plan, Result, run
from dispatcher.demo.screen import Lines, LivePanel, Screen, show_result


@click.command()
@click.option("--rate", type=click.FloatRange(1, 20_000), default=200.0, show_default=True, help="Events a second.")
@click.option("--seconds", type=click.FloatRange(1, 3_600), default=15.0, show_default=True, help="How long.")
@click.option(
    "--http-port", type=click.IntRange(0, 65_535), default=0, help="Port of the sidecar.  [default: any free one]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to standard error.")
def demo(rate: float, seconds: float, http_port: int, as_json: bool) -> None:
    """Start Postgres, Valkey and the dispatcher, send sample events through, print the verdict.

    Needs nothing installed but the 'embedded' extra, and leaves nothing behind. Exit code 0 only when nothing was
    lost or doubled and p95 from commit to consumer is under 1.5 s.
    """
    console = Console()
    live = console.is_terminal and not as_json
    screen: Screen = LivePanel(console, seconds) if live else Lines(seconds, to_stderr=as_json)
    result = run(Plan(rate, seconds, http_port), screen)
    if as_json:
        click.echo(as_text(result))
    else:
        show_result(console, result.tally, result.sent, result.verdict, result.rate)
    sys.exit(0 if result.verdict.passed else 1)


def as_text(result: Result) -> str:
    """The result as one JSON object."""
    return json.dumps(
        {
            **result.tally.summary(),
            "sent": result.sent,
            "events_per_second": round(result.rate, 1),
            "verdict": result.verdict.word,
            "reasons": result.verdict.reasons,
        }
    )
