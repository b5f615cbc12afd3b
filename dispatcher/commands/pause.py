"""`dispatcher pause`: stops all dispatchers from claiming rows, and waits until each has acknowledged."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio
import click

from dispatcher.commands.options import database, json_output, options_together, postgres_target, settings_from
from dispatcher.core.counted import counted
from dispatcher.core.timestamps import iso
from dispatcher.ops.pause import Acknowledgement, PauseSession, PauseSwitch

STATEMENT_S = 10.0

switch_options = options_together(
    click.option(
        "--timeout",
        type=click.FloatRange(0, 86_400),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the dispatchers; 0: not at all.",
    ),
    database,
    json_output,
)


@click.command()
@click.option("--reason", metavar="TEXT", help="Why, for `dispatcher status` and the logs. No secrets.")
@switch_options
def pause(reason: str | None, timeout: float, as_json: bool, **flags: str | None) -> int:
    """Stop all dispatchers from claiming rows, also those that start later, until `dispatcher resume`.

    Each claims nothing new, settles what it has in flight, and acknowledges; the command waits for that. Rows wait in
    Postgres and writers are not held up. Takeover, retention, probes and metrics go on. It asks nothing, so there is
    no --yes: `dispatcher resume` undoes it.

    Exit code 1 when not all acknowledged in time: the pause stays in force all the same.
    """
    return anyio.run(run_switch, True, reason, timeout, as_json, flags)


async def run_switch(
    paused: bool, reason: str | None, timeout: float, as_json: bool, flags: dict[str, str | None]
) -> int:
    """Pause or resume, wait, report; returns the exit code."""
    async with PauseSession(postgres_target(settings_from(flags), STATEMENT_S), "pause") as pausing:
        switch, changed = await pausing.switch(paused=paused, reason=reason)
        with _progress(switch) as progress:
            acknowledgements = await pausing.wait(switch, timeout, progress)
    if as_json:
        click.echo(as_text(switch, changed, acknowledgements))
    else:
        for line in summary(switch, changed, acknowledgements, timeout):
            click.echo(line)
    return 0 if all(each.obeys(switch) for each in acknowledgements) else 1


def as_text(switch: PauseSwitch, changed: bool, acknowledgements: Sequence[Acknowledgement]) -> str:
    """What --json prints: one JSON object, times in RFC 3339."""
    dispatchers = [
        {"name": each.name, "version": each.version, "acknowledged": each.obeys(switch), "in_flight": each.in_flight}
        for each in acknowledgements
    ]
    fields = {"paused": switch.paused, "changed": changed, "since": switch.changed_at, "by": switch.changed_by}
    return json.dumps(fields | {"reason": switch.reason, "dispatchers": dispatchers}, default=iso)


def summary(
    switch: PauseSwitch, changed: bool, acknowledgements: Sequence[Acknowledgement], timeout: float
) -> Iterator[str]:
    """How many acknowledged, which did not and why, what happens next."""
    done = "Paused" if switch.paused else "Resumed"
    if not changed and switch.changed_at is not None:
        yield f"Already {done.lower()} {switch}."
    late = [each for each in acknowledgements if not each.obeys(switch)]
    everybody = counted(len(acknowledgements), "dispatcher")
    if not acknowledgements:
        yield f"{done}. No dispatcher runs enabled now; the next one to start obeys too."
    elif not late:
        yield f"{done}: {everybody} acknowledged."
    else:
        obey = len(acknowledgements) - len(late)
        yield f"{done}, but only {obey} of {everybody} acknowledged within {timeout:g} s. Not yet:"
        for each in late:
            yield f"  {each.name}: {_why(each, switch)}"
        yield "It stays in force: each obeys as soon as it can. To wait again, repeat the command."
    if switch.paused:
        yield "Rows wait in Postgres until `dispatcher resume`."


def _why(late: Acknowledgement, switch: PauseSwitch) -> str:
    if late.generation is None:
        return f"it has never answered; version {late.version}, which may be too old to know a pause"
    if late.generation == switch.generation:
        return f"it claims nothing new, and still has {counted(late.in_flight or 0, 'batch')} in flight; is Redis away?"
    silent = f"no answer for {max(late.heard_s or 0, 0):.0f} s"
    if not late.alive and not late.lately:
        return f"{silent}: dead, or cut off from Postgres; with --timeout 10 or more this command can tell"
    return f"{silent}: frozen, or cut off from Postgres; look at its log"


@contextmanager
def _progress(switch: PauseSwitch) -> Iterator[Callable[[Sequence[Acknowledgement]], None]]:
    """On standard error: one line that changes on a terminal, a line for each change elsewhere."""
    terminal, last = sys.stderr.isatty(), ""

    def show(acknowledgements: Sequence[Acknowledgement]) -> None:
        nonlocal last
        done = sum(each.obeys(switch) for each in acknowledgements)
        text = f"{done} of {counted(len(acknowledgements), 'dispatcher')} acknowledged"
        if text != last and done < len(acknowledgements):
            click.echo(f"\r{text} ..." if terminal else f"{text} ...", nl=not terminal, err=True)
            last = text

    yield show
    if terminal and last:
        click.echo("\r" + " " * (len(last) + 4) + "\r", nl=False, err=True)
