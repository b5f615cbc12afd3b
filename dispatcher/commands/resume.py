"""`dispatcher resume`: ends what `dispatcher pause` began."""

import anyio
import click

from dispatcher.commands.pause import run_switch, switch_options


@click.command()
@switch_options
def resume(timeout: float, as_json: bool, **flags: str | None) -> int:
    """Let all dispatchers take rows again, and wait until each has said so.

    Exit code 1 when not all answered in time: they go on all the same, as soon as they hear of it.
    """
    return anyio.run(run_switch, False, None, timeout, as_json, flags)
