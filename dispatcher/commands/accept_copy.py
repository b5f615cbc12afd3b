"""`dispatcher accept-copy`: makes a copy of an outbox the outbox."""

import json

import anyio
import click

from dispatcher.commands.options import database, json_output, settings_from, target
from dispatcher.ops import accept_copy as ops
from dispatcher.ops.session import ask


@click.command()
@json_output
@database
def accept_copy(as_json: bool, **flags: str | None) -> int:
    """Say that a copy is the outbox from now on: a restored dump, a database made from one, a clone with another Redis.

    Dispatchers claim nothing from a copy ("this outbox is a copy" in /ready, `status`, `doctor` and the log), because
    its events may have been published from the original, or may still be. Say this when applications write to the copy
    now, and nothing else publishes its events. They go on within seconds; no restart is needed. Before they claim, they
    look the stream through, and what they find there is not published again.

    It asks nothing. For a copy to play with, rather delete what came along: an outbox without events is accepted by
    itself.
    """
    why = anyio.run(ask, target(settings_from(flags), 30.0), "accept a copy", ops.accept_copy)
    if as_json:
        click.echo(json.dumps({"copy": why}))
    elif why is None:
        click.echo("Postgres sees no copy here. Any Redis that the dispatchers are given is the right one from now on.")
    else:
        click.echo(f"It was a copy: {why}. It is the outbox from now on; dispatchers look the stream through first.")
    return 0
