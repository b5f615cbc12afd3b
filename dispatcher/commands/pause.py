"""`dispatcher pause`: holds all dispatchers back, and waits until each has obeyed."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import click

from dispatcher.infra.postgres.session import PostgresTarget
from dispatcher.ops.pause import Acknowledgement, PauseSession, PauseSwitch
from dispatcher.settings import Settings

PATIENCE_S = 10.0  # for one statement


def switch_options(command: Callable[..., object]) -> Callable[..., object]:
    """The options that `pause` and `resume` have in common."""
    for option in reversed(
        [
            click.option(
                "--timeout",
                type=click.FloatRange(0, 86_400),
                default=30.0,
                show_default=True,
                metavar="SECONDS",
                help="How long to wait for the dispatchers; 0: not at all.",
            ),
            click.option("--database-url", metavar="URL", help="The Postgres that holds the outbox.  [DATABASE_URL]"),
            click.option("--dsn", metavar="DSN", help="Dispatchbox's name for --database-url."),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.option("--reason", metavar="TEXT", help="Why, for `dispatcher status` and the logs. No secrets.")
@switch_options
def pause(reason: str | None, timeout: float, as_json: bool, **flags: str | None) -> int:
    """Hold all dispatchers back, those that start later too, until `dispatcher resume`.

    Each takes nothing new, finishes what it has in hand, and says so; the command waits for that. Rows wait in
    Postgres, writers are not held up, and takeover, retention, probes and metrics go on.

    Exit code 1 when not all obeyed in time: the pause stays in force all the same.
    """
    return anyio.run(run_switch, True, reason, timeout, as_json, flags)


async def run_switch(
    paused: bool, reason: str | None, timeout: float, as_json: bool, flags: dict[str, str | None]
) -> int:
    """Switch, wait, and say how it went; the exit code."""
    settings = Settings.load_some(("database_url", "connect_timeout_ms"), os.environ, flags)
    target = PostgresTarget(
        settings["database_url"],
        "dispatcher",
        connect_timeout_s=settings["connect_timeout_ms"] / 1000,
        query_timeout_s=PATIENCE_S,
    )
    async with PauseSession(target) as pausing:
        switch, changed = await pausing.switch(paused=paused, reason=reason)
        with _progress(switch) as progress:
            words = await pausing.wait(switch, timeout, progress)
    late = [word for word in words if not word.obeys(switch)]
    if as_json:
        click.echo(as_text(switch, changed, words))
    else:
        for line in summary(switch, changed, words, timeout):
            click.echo(line)
    return 1 if late else 0


def as_text(switch: PauseSwitch, changed: bool, words: list[Acknowledgement]) -> str:
    """One JSON object."""
    dispatchers = [
        {"name": word.name, "version": word.version, "acknowledged": word.obeys(switch), "in_flight": word.in_flight}
        for word in words
    ]
    fields = {"paused": switch.paused, "changed": changed, "since": switch.changed_at, "by": switch.changed_by}
    return json.dumps(fields | {"reason": switch.reason, "dispatchers": dispatchers}, default=str)


def summary(switch: PauseSwitch, changed: bool, words: list[Acknowledgement], timeout: float) -> Iterator[str]:
    """What a person wants to know: how many obey, who does not and why, what happens next."""
    done = "Paused" if switch.paused else "Resumed"
    if not changed and switch.changed_at is not None:
        why = f" ({switch.reason})" if switch.reason else ""
        yield f"Already {done.lower()} since {switch.changed_at:%Y-%m-%d %H:%M:%S%z} by {switch.changed_by}{why}."
    late = [word for word in words if not word.obeys(switch)]
    if not words:
        yield f"{done}. No dispatcher runs enabled now; the next one to start obeys too."
    elif not late:
        yield f"{done}: {_count(words)} acknowledged."
    else:
        obey = len(words) - len(late)
        yield f"{done}, but only {obey} of {_count(words)} acknowledged within {timeout:g} s. Not yet:"
        for word in late:
            yield f"  {word.name}: {_why(word, switch)}"
        yield "It stays in force: each obeys as soon as it can. The same command again waits again."
    if switch.paused:
        yield "Rows wait in Postgres until `dispatcher resume`."


def _why(word: Acknowledgement, switch: PauseSwitch) -> str:
    if word.generation is None:
        return f"it never said anything; version {word.version}, which may be too old to know a pause"
    if word.generation == switch.generation:
        return f"it takes nothing new, and finishes what it has in hand ({word.in_flight} batches; is Redis away?)"
    return f"no word for {word.heard_s or 0:.0f} s: frozen, or cut off from Postgres; look at its log"


def _count(words: list[Acknowledgement]) -> str:
    return f"{len(words)} dispatcher{'s' if len(words) != 1 else ''}"


@contextmanager
def _progress(switch: PauseSwitch) -> Iterator[Callable[[list[Acknowledgement]], None]]:
    """On standard error: one line that changes on a terminal, a line for each change elsewhere."""
    terminal, last = sys.stderr.isatty(), ""

    def show(words: list[Acknowledgement]) -> None:
        nonlocal last
        done = sum(word.obeys(switch) for word in words)
        text = f"{done} of {_count(words)} acknowledged"
        if text != last and done < len(words):
            click.echo(f"\r{text} ..." if terminal else f"{text} ...", nl=not terminal, err=True)
            last = text

    yield show
    if terminal and last:
        click.echo("\r" + " " * (len(last) + 4) + "\r", nl=False, err=True)
