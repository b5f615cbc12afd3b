"""`groups destroy`: removes a consumer group that nobody reads any more."""

import json

import anyio
import click

from dispatcher.commands.groups.options import GroupServers, dead_of, of_group, server_options, servers_of
from dispatcher.commands.options import require_terminal, yes
from dispatcher.commands.tables import plain, span
from dispatcher.core.counted import counted
from dispatcher.ops.destroy_group import Abandoned, destroy, find_abandoned

READERS = 5  # consumers that are named


@click.command(name="destroy")
@of_group
@yes
@server_options
def destroy_group(group: str, yes: bool, as_json: bool, **flags: str | None) -> int:
    """Remove a consumer group that nobody reads any more, from each key of the stream.

    What it has not read, and what it has read and not acknowledged, is forgotten for this group; the entries stay for
    the others. Refused while a consumer of it asked for entries in the last minute. Its dead stream stays.
    """
    if not yes:
        require_terminal(dry_run=False)
    at, found = anyio.run(_find, group, flags)
    for each in found:
        for line in asked_about(each):
            click.echo(line, err=as_json)
    if not yes and not click.confirm(f"Destroy the group {group}?", err=as_json):
        click.echo("Nothing was destroyed.", err=as_json)
        return 1
    dead = anyio.run(_destroy, group, at)
    if as_json:
        click.echo(json.dumps({"group": group, "destroyed": [each.stream for each in found], "dead": dead}))
        return 0
    click.echo(f"Destroyed the group {group}.")
    if dead:
        click.echo(f"Its dead stream keeps {counted(dead, 'entry')}: `dispatcher groups dead {group}`")
    return 0


def asked_about(group: Abandoned) -> list[str]:
    """What decides whether it may go: how far it has read, and whose it was."""
    readers = sorted(group.consumers, key=lambda one: one[1])[:READERS]
    return [
        f"{group.stream}: read up to {group.read_to}, {group.pending} not acknowledged",
        *(plain(f"  its consumer {name} asked for entries {span(idle_s)} ago") for name, idle_s in readers),
    ]


async def _find(group: str, flags: dict[str, str | None]) -> tuple[GroupServers, list[Abandoned]]:
    at = await servers_of(flags)
    return at, await find_abandoned(at.url, at.keys, group, at.postgres.connect_timeout_s)


async def _destroy(group: str, at: GroupServers) -> int:
    await destroy(at.url, at.keys, group, at.postgres.connect_timeout_s)
    async with dead_of(at, group, "") as dead:
        return await dead.count()
