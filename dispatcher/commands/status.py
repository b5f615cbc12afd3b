"""`dispatcher status`: one look at the outbox, the dispatchers that run, the stream and its groups."""

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from time import monotonic

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.core.errors import Unreachable
from dispatcher.infra.postgres.session import PostgresTarget
from dispatcher.ops.status import STATUSES, OutboxStatus, Status, read_status
from dispatcher.settings import Settings

REST = 5  # a look that took t seconds is followed by at least 5 t of rest


@click.command()
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(0.1, 3600),
    metavar="[SECONDS]",
    help="Look again every 2 s, or every so many, until Ctrl-C.",
)
@click.option("--database-url", metavar="URL", help="The Postgres that holds the outbox.  [DATABASE_URL]")
@click.option("--dsn", metavar="DSN", help="Dispatchbox's name for --database-url.")
@click.option("--redis-url", metavar="URL", help="The Redis or Valkey that holds the stream.  [REDIS_URL]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a look, each on a line.")
def status(watch: float | None, as_json: bool, **flags: str | None) -> None:
    """Show the outbox, the dispatchers that run, the stream and its consumer groups.

    Counting reads the whole outbox; with --watch it rests at least five times as long as a look took.

    Exit code 1 when a server cannot be reached (the other one is shown), 2 when something is set up wrongly.
    """
    wanted = ("database_url", "redis_url", "handlers", "unrouted", "stream_name", "connect_timeout_ms")
    settings = Settings.load_some((*wanted, "query_timeout_ms"), os.environ, flags)
    target = PostgresTarget(
        settings["database_url"],
        "dispatcher",
        connect_timeout_s=settings["connect_timeout_ms"] / 1000,
        query_timeout_s=settings["query_timeout_ms"] / 1000,
    )
    ask = partial(read_status, target, settings.get("redis_url", ""), settings["stream_name"])
    if watch is not None:
        with suppress(KeyboardInterrupt):  # the way to end it
            anyio.run(_watch, ask, watch, as_json)
        return
    found = anyio.run(ask)
    if found.outbox is not None or found.stream is not None:
        click.echo(as_text(found)) if as_json else show(found, Console())
    if found.problems:
        raise Unreachable("; ".join(found.problems))


async def _watch(ask: Callable[[], Awaitable[Status]], every_s: float, as_json: bool) -> None:
    """Look until interrupted. What cannot be reached is shown, and asked again."""
    console = Console()
    while True:
        began = monotonic()
        found = await ask()
        if console.is_terminal and not as_json:
            console.clear()
        click.echo(as_text(found)) if as_json else show(found, console)
        if not as_json:
            for problem in found.problems:
                click.echo(f"not reached: {problem}")
            click.echo(f"at {datetime.now().astimezone():%H:%M:%S}; Ctrl-C ends")
        await anyio.sleep(max(every_s, REST * (monotonic() - began)))


def as_text(found: Status) -> str:
    """One JSON object; what could not be asked is null."""
    stream = None if found.stream is None else {"name": found.stream_name, **asdict(found.stream)}
    outbox = None if found.outbox is None else asdict(found.outbox)
    return json.dumps({"outbox": outbox, "stream": stream, "problems": found.problems}, default=str)


def facts(found: Status) -> list[tuple[str, str]]:
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
        lines.append(("paused", _paused(outbox)))
        polling = [word for word in outbox.words if not word.registered]
        lines.append(("dispatchers alive", str(len(outbox.dispatchers) + len(polling))))
        lines += [(f"dispatcher {each.id}", f"{each.name}, version {each.version}") for each in outbox.dispatchers]
        lines += [("dispatcher -", f"{each.name}, version {each.version}, without a listener") for each in polling]
    if (stream := found.stream) is not None:
        lines.append(("stream", found.stream_name))
        lines.append(("entries", str(stream.length)))
        lines += [
            (f"group {group.name}", f"lag {group.lag}, pending {group.pending}, consumers {group.consumers}")
            for group in stream.groups
        ]
    return lines


def _paused(outbox: OutboxStatus) -> str:
    switch = outbox.pause
    if not switch.paused:
        return "no"
    obey = sum(word.obeys(switch) for word in outbox.words)
    since = f"since {switch.changed_at:%Y-%m-%d %H:%M:%S%z} by {switch.changed_by}"
    why = f" ({switch.reason})" if switch.reason else ""
    return f"{since}{why}; {obey} of {len(outbox.words)} dispatchers hold back"


def show(found: Status, console: Console) -> None:
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
