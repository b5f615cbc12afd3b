"""`dispatcher status`: one look at the outbox, the dispatchers that run, the stream and its groups."""

import json
import os
from dataclasses import asdict

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.core.errors import Unreachable
from dispatcher.infra.database import Target
from dispatcher.settings import Settings
from dispatcher.upkeep.overview import STATUSES, Overview, look


@click.command()
@click.option("--database-url", metavar="URL", help="The Postgres that holds the outbox.  [DATABASE_URL]")
@click.option("--dsn", metavar="DSN", help="Dispatchbox's name for --database-url.")
@click.option("--redis-url", metavar="URL", help="The Redis or Valkey that holds the stream.  [REDIS_URL]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool, **flags: str | None) -> None:
    """Show the outbox, the dispatchers that run, the stream and its consumer groups.

    Exit code 1 when a server cannot be reached (the other one is shown), 2 when something is set up wrongly.
    """
    wanted = ("database_url", "redis_url", "stream_name", "connect_timeout_ms", "query_timeout_ms")
    settings = Settings.load_some(wanted, os.environ, flags)
    target = Target(
        settings["database_url"],
        "dispatcher",
        connect_timeout_s=settings["connect_timeout_ms"] / 1000,
        query_timeout_s=settings["query_timeout_ms"] / 1000,
    )
    found = anyio.run(look, target, settings["redis_url"], settings["stream_name"])
    if found.outbox is not None or found.stream is not None:
        click.echo(as_text(found)) if as_json else show(found, Console())
    if found.problems:
        raise Unreachable("; ".join(found.problems))


def as_text(found: Overview) -> str:
    """One JSON object; what could not be asked is null."""
    stream = None if found.stream is None else {"name": found.stream_name, **asdict(found.stream)}
    outbox = None if found.outbox is None else asdict(found.outbox)
    return json.dumps({"outbox": outbox, "stream": stream, "problems": found.problems}, default=str)


def facts(found: Overview) -> list[tuple[str, str]]:
    """What there is to say, as lines of a name and a value."""
    lines: list[tuple[str, str]] = []
    if (outbox := found.outbox) is not None:
        lines.append(("outbox", outbox.address))
        if outbox.rows is None:
            lines.append(("rows", "not counted: it took longer than DISPATCH_QUERY_TIMEOUT_MS"))
        else:
            lines += [(name, str(outbox.rows[name])) for name in STATUSES]
        lines.append(("oldest overdue", f"{outbox.oldest_unsettled_age_s:.1f} s"))
        lines.append(("notification queue", f"{outbox.notification_queue_usage:.1%} full"))
        lines.append(("doorbell trigger", outbox.doorbell))
        lines.append(("dispatchers alive", str(len(outbox.dispatchers))))
        lines += [(f"dispatcher {each.id}", f"{each.name}, version {each.version}") for each in outbox.dispatchers]
    if (stream := found.stream) is not None:
        lines.append(("stream", found.stream_name))
        lines.append(("entries", str(stream.length)))
        lines += [
            (f"group {group.name}", f"lag {group.lag}, pending {group.pending}, consumers {group.consumers}")
            for group in stream.groups
        ]
    return lines


def show(found: Overview, console: Console) -> None:
    """A table on a terminal, one `name: value` a line elsewhere."""
    lines = facts(found)
    if not console.is_terminal:
        for name, value in lines:
            click.echo(f"{name}: {value}")
        return
    table = Table(show_header=False)
    for name, value in lines:
        if name == "stream" and found.outbox is not None:
            table.add_section()
        table.add_row(Text(name), Text(value))  # a group's name is no markup
    console.print(table)
