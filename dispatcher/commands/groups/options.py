"""What the commands about one group have in common: its name, the server_options, the keys of the stream."""

from collections.abc import Sequence
from typing import NamedTuple

import click

from dispatcher.commands import options
from dispatcher.core.errors import Misconfigured
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.dead_entries import ID, DeadEntries
from dispatcher.ops.layout import standing_layout

STATEMENT_S = 60.0


class EntryId(click.ParamType[str]):
    """`milliseconds-number`. Anything else is refused here, or Redis would take a part of it for a range."""

    name = "entry"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if ID.fullmatch(str(value)) is None:
            self.fail(f"'{value}' is no id of an entry, such as 1764511200000-0", param, ctx)
        return str(value)


class GroupServers(NamedTuple):
    """Where the group is: Redis, the keys of the stream, and the Postgres of the outbox."""

    url: str
    keys: Sequence[str]
    postgres: PostgresTarget


server_options = options.options_together(options.stream_name, options.redis_url, options.database, options.json_output)
of_group = click.argument("group")
dead_stream = click.option(
    "--dead-stream", metavar="KEY", default="", help="Where the consumers put entries away, if they name it themselves."
)


async def servers_of(flags: dict[str, str | None]) -> GroupServers:
    """From these flags, or else the environment; the keys are those that the dispatchers have. Raises Misconfigured."""
    settings = options.settings_from(flags, "redis_url", "handlers", "unrouted", *options.LAYOUT)
    if not (url := settings.get("redis_url", "")):
        raise Misconfigured("no event goes to a stream (DISPATCH_UNROUTED=dead), so there are no groups")
    where = options.postgres_target(settings, STATEMENT_S)
    return GroupServers(url, (await standing_layout(where, options.layout_of(settings))).keys, where)


def dead_of(at: GroupServers, group: str, dead_stream: str) -> DeadEntries:
    return DeadEntries(at.url, at.keys, group, dead_stream, at.postgres.connect_timeout_s)
