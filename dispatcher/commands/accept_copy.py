"""`dispatcher accept-copy`: makes a copy of an outbox the outbox."""

import json

import anyio
import click

from dispatcher.commands.options import database, json_output, postgres_target, settings_from
from dispatcher.ops import accept_copy as ops
from dispatcher.ops.session import ask


@click.command()
@json_output
@database
def accept_copy(as_json: bool, **flags: str | None) -> int:
    """Accept a copy as the outbox: a restored dump, a database made from another, a clone with another Redis.

    Dispatchers claim nothing from a copy ("this outbox is a copy" in /ready, `status`, `doctor` and the log), because
    the original may have published its events, or may still publish them. Accept the copy when applications write to
    it now, and nothing else publishes its events. Dispatchers go on within seconds, without a restart. Before they
    claim, they search the stream, and do not publish again what they find there.

    It asks no question. If the copy is for tests, delete its events instead: an outbox without events is accepted by
    itself.
    """
    why = anyio.run(ask, postgres_target(settings_from(flags), 30.0), "accept a copy", ops.accept_copy)
    if as_json:
        click.echo(json.dumps({"copy": why}))
    elif why is None:
        click.echo("Postgres sees no copy here. Any Redis that the dispatchers are given is the right one from now on.")
    else:
        click.echo(f"It was a copy: {why}. It is the outbox from now on; dispatchers look the stream through first.")
    return 0
