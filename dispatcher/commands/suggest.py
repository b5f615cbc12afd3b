"""A group of commands that names the command that was meant."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import click

# What people type who know other tools.
MEANT: Mapping[str, str] = {
    "stats": "status", "ps": "status", "info": "status", "health": "doctor", "check": "doctor", "start": "run",
    "serve": "run", "worker": "run", "stop": "pause", "unpause": "resume", "continue": "resume", "dead": "dlq",
    "dead-letters": "dlq", "event": "events", "group": "groups", "consumers": "groups", "requeue": "retry",
    "replay": "retry", "delete": "discard", "remove": "discard", "rm": "discard", "drop": "discard", "ls": "list",
    "get": "show", "count": "stats", "search": "find", "grep": "find", "cleanup": "prune", "purge": "prune",
    "upgrade": "migrate", "init": "migrate", "dql": "dlq", "blocked": "held",
    "aggregates": "held",
}  # fmt: skip


def hint(typed: str, commands: Iterable[str]) -> str:
    """A sentence with the command that was meant, after a space; "" when none is near."""
    known = list(commands)
    meant = MEANT.get(typed)
    near = [meant] if meant in known else get_close_matches(typed, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


class SuggestingGroup(click.Group):
    """Names the known command that is most like an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but for an unknown command."""
        commands = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in commands:
            ctx.fail(f"No such command '{args[0]}'.{hint(args[0], commands)}")
        return super().resolve_command(ctx, args)
