"""`dispatcher dlq`: dead events, as the API has them, on the command line."""

import click

from dispatcher.commands.dlq.decide import discard_dead, retry_dead
from dispatcher.commands.dlq.inspect import list_dead, show, stats
from dispatcher.commands.suggest import SuggestingGroup


@click.group(cls=SuggestingGroup)
def dlq() -> None:
    """Dead events: list, show and count them, publish them again, or discard them.

    An event is dead when its attempts are used up, or when it can never be sent. It stays dead until somebody retries
    or discards it. A copy of it is kept for DLQ_RETENTION_DAYS, which is longer than its row is kept; a retry works
    from the row or from the copy.

    These are events that could not be published, or whose handler failed. What a consumer of the stream gave up is not
    here: that event was sent. It lies in the dead stream of its group: `dispatcher groups`.

    \b
    dispatcher dlq stats
    dispatcher dlq list --event-type order.created
    dispatcher dlq retry 4711
    dispatcher dlq retry --error-like 'did not end within' --dry-run
    dispatcher dlq discard 4711 --reason 'the order was cancelled'
    """


for command in (list_dead, show, stats, retry_dead, discard_dead):
    dlq.add_command(command)
