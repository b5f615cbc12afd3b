"""`dispatcher dlq`: dead events, as the API has them, on the command line."""

import click

from dispatcher.commands.dlq.inspect import list_dead, show, stats
from dispatcher.commands.dlq.retry import retry_dead


@click.group()
def dlq() -> None:
    """Dead events: list, show and count them, publish them again.

    An event is dead when its attempts are used up, or when it can never be sent. A copy of it is kept for
    DLQ_RETENTION_DAYS, which is longer than its row is kept; a retry works from the row or from the copy.

    \b
    dispatcher dlq stats
    dispatcher dlq list --event-type order.created
    dispatcher dlq retry 4711
    dispatcher dlq retry --error 'TimeoutError: the handler did not end within 60 s' --dry-run
    """


for command in (list_dead, show, stats, retry_dead):
    dlq.add_command(command)
