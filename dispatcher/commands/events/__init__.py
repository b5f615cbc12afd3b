"""`dispatcher events`: every event, whatever became of it."""

import click

from dispatcher.commands.events.decide import discard_named, retry_named
from dispatcher.commands.events.inspect import find_events, list_all, show_event
from dispatcher.commands.suggest import SuggestingGroup


@click.group(cls=SuggestingGroup)
def events() -> None:
    """Find events in any status, list those of one status, show one with its attempts, retry or discard dead ones.

    \b
    pending    due, and not claimed yet
    scheduled  pending, and due later
    picked     claimed by a dispatcher
    retry      failed, and waits for its next attempt
    dead       failed for the last time: somebody has to decide: retry or discard
    discarded  a person decided that nobody needs it
    sent       in the stream, or its handler is done

    \b
    dispatcher events find 4711
    dispatcher events find order/4711
    dispatcher events list --status retry
    dispatcher events show 4711
    dispatcher events retry 4711
    """


for command in (find_events, list_all, show_event, retry_named, discard_named):
    events.add_command(command)
