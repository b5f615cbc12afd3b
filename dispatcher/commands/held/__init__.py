"""`dispatcher held`: aggregates whose later events wait, as the API has them, on the command line."""

import click

from dispatcher.commands.held.decide import retry_held, skip_held
from dispatcher.commands.held.inspect import list_held
from dispatcher.commands.suggest import SuggestingGroup


@click.group(cls=SuggestingGroup)
def held() -> None:
    """Held aggregates: list them, retry the events that hold them, or skip those.

    With DISPATCH_ORDER=aggregate an event that fails holds the later ones of its aggregate, and nothing else, until it
    went out or is dead; with DISPATCH_ORDER_ON_DEAD=hold until somebody retried or skipped it. An event is named, not
    its aggregate: repeating a skip does not skip the next one.

    \b
    dispatcher held list
    dispatcher held retry 4711
    dispatcher held retry --error-like 'did not end within' --dry-run
    dispatcher held skip 4711 --reason 'the order was cancelled'
    """


for command in (list_held, retry_held, skip_held):
    held.add_command(command)
