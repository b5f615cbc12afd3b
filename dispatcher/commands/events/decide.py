"""`events retry` and `events discard`: what `dlq retry` and `dlq discard` do with events that are named, found here.

A retry is also of events that are tried again by themselves."""

from typing import Any

import click

from dispatcher.commands.decisions import reason, why
from dispatcher.commands.dlq.decide import decide_dead
from dispatcher.commands.event_options import EventParam
from dispatcher.commands.options import database, json_output, options_together
from dispatcher.ops.dead_letters.decide import Decision
from dispatcher.ops.session import operator

named = options_together(click.argument("events", type=EventParam(), nargs=-1, required=True), json_output, database)
ALONE = {"everything": False, "dry_run": False, "yes": False}  # who names events needs no question


@click.command(name="retry")
@why
@named
def retry_named(reason: str | None, **choice: Any) -> int:
    """Publish these events again: dead ones, as `dispatcher dlq retry` does, and those in status retry.

    A dead event begins anew. One in status retry is tried now, not when it is due, with the attempts that it has left;
    where an order is kept, the later events of its aggregate still wait for it. They are named, so it asks nothing.
    Of any other event it says what it is, and what publishes it. First remove the cause of the failure.

    Exit code 1 when one of them was neither dead nor in status retry.
    """
    return decide_dead(Decision("retry", operator(), reason, tried=True), choice | ALONE)


@click.command(name="discard")
@reason
@named
def discard_named(reason: str, **choice: Any) -> int:
    """Decide that nobody needs these dead events, as `dispatcher dlq discard` does. They are named, so it asks nothing.

    Exit code 1 when one of them was not dead.
    """
    return decide_dead(Decision("discard", operator(), reason), choice | ALONE)
