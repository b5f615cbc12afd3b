"""`dispatcher resume`: ends a pause."""

import anyio
import click

from dispatcher.commands.pause import run_switch, switch_options


@click.command()
@switch_options
def resume(timeout: float, as_json: bool, **flags: str | None) -> int:
    """End a pause: let all dispatchers claim rows again, and wait until each has acknowledged. It asks nothing.

    Exit code 1 when not all acknowledged in time: each goes on as soon as it reads the switch.
    """
    return anyio.run(run_switch, False, None, timeout, as_json, flags)
