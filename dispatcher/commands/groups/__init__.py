"""`dispatcher groups`: the consumer groups of the stream, and what their consumers have put away."""

import click
from click.core import ParameterSource

from dispatcher.commands.groups.dead import discard_entries, list_entries, retry_entries
from dispatcher.commands.groups.destroy import destroy_group
from dispatcher.commands.groups.show import show_groups
from dispatcher.commands.options import database, json_output, redis_url, stream_name
from dispatcher.commands.suggest import SuggestingGroup


@click.group(cls=SuggestingGroup, invoke_without_command=True)
@stream_name
@redis_url
@database
@json_output
def groups(as_json: bool, **flags: str | None) -> None:
    """Show the consumer groups: how far behind each is, and when it was read last. Look into their dead streams.

    A group that nobody reads any more stops publishing for all, once it has nine tenths of REDIS_STREAM_MAXLEN to read.
    Destroy it, or exempt it: DISPATCH_BACKPRESSURE_EXCEPT.

    \b
    lag        entries that it has yet to read
    pending    entries read, and not acknowledged
    dead       entries that its consumers put away, in <stream>:<group>:dead; `dispatcher dlq` does not know them
    last read  how long ago one of its consumers asked for entries

    \b
    dispatcher groups
    dispatcher groups dead billing
    dispatcher groups retry billing 1764511200000-0
    dispatcher groups destroy billing

    MAXLEN and the exempt groups are those of the running dispatchers; without one, of this environment.
    """
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        show_groups(as_json, flags)
    for each in context.params if context.invoked_subcommand else ():
        if context.get_parameter_source(each) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"Write the options behind '{context.invoked_subcommand}'.")


for command in (list_entries, retry_entries, discard_entries, destroy_group):
    groups.add_command(command)
