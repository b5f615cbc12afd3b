"""`events retry` and `events discard`: what `dlq retry` and `dlq discard` do with events that are named, found here."""

from typing import Any

import click

from dispatcher.commands.dlq.decide import decide_dead
from dispatcher.commands.dlq.deciding import reason, why
from dispatcher.commands.dlq.options import Event
from dispatcher.commands.options import database, json_output, together
from dispatcher.ops.dead_letters.decide import Decision
from dispatcher.ops.session import operator

named = together(click.argument("events", type=Event(), nargs=-1, required=True), json_output, database)
ALONE = {"everything": False, "dry_run": False, "yes": False}  # who names events needs no question


@click.command(name="retry")
@why
@named
def retry_named(reason: str | None, **choice: Any) -> int:
    """Publish these dead events again, as `dispatcher dlq retry` does. They are named, so it asks nothing.

    Of an event that is not dead it says what it is, and what publishes it.

    Exit code 1 when one of them was not dead.
    """
    return decide_dead(Decision("retry", operator(), reason), choice | ALONE)


@click.command(name="discard")
@reason
@named
def discard_named(reason: str, **choice: Any) -> int:
    """Decide that nobody needs these dead events, as `dispatcher dlq discard` does. They are named, so it asks nothing.

    Exit code 1 when one of them was not dead.
    """
    return decide_dead(Decision("discard", operator(), reason), choice | ALONE)
