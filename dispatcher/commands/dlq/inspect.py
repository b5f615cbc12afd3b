"""`dlq list`, `show` and `stats`: change nothing."""

import json
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.commands.dlq.options import Event, ask, filter_of, filters
from dispatcher.commands.options import database, json_output
from dispatcher.core.errors import DispatcherError
from dispatcher.ops.dead_letters.find import PAGE, Filter, count, find_one, find_page, parts_of
from dispatcher.ops.dead_letters.identity import EventRef


@click.command(name="list")
@filters
@click.option("--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="The most events to list.")
@click.option("--offset", type=click.IntRange(0, 10**9), default=0, help="Events to leave out at the start.")
@json_output
@database
def list_dead(limit: int, offset: int, as_json: bool, **flags: str | None) -> None:
    """List dead events, the newest first."""
    which = filter_of(flags)
    page = ask(flags, lambda fetch: find_page(fetch, which, limit=limit, offset=offset))
    if as_json:
        click.echo(f'{{"events": {page.events}, "count": {page.count}, "limit": {limit}, "offset": {offset}}}')
        return
    events = json.loads(page.events)
    if not events:
        click.echo("No dead event matches." if which != Filter() else "No event is dead.")
        return
    columns = ("id", "event_type", "aggregate_type", "aggregate_id", "attempts", "occurred_at", "last_error")
    _show_table(columns, [[event[name] for name in columns] for event in events])
    if page.count == limit:
        click.echo(f"There may be more: --offset {offset + limit}", err=True)


@click.command()
@click.argument("event", type=Event())
@click.option("--payload", is_flag=True, help="Show payload and headers too.")
@json_output
@database
def show(event: EventRef, payload: bool, as_json: bool, **flags: str | None) -> None:
    """Show one dead event, by the number of its row or its event_id."""
    found = ask(flags, lambda fetch: find_one(fetch, event, payload=payload))
    if found is None:
        raise DispatcherError(f"no dead event has the id {event}")
    if as_json:
        click.echo(found)
        return
    for name, value in parts_of(found):
        click.echo(f"{name}: {_plain(value)}")


@click.command()
@filters
@json_output
@database
def stats(as_json: bool, **flags: str | None) -> None:
    """Count dead events: all, by error, by type."""
    found = ask(flags, lambda fetch: count(fetch, filter_of(flags)))
    if as_json:
        groups = {"by_error": found.by_error, "by_type": found.by_type}
        click.echo(json.dumps({"total": found.total, **groups}))
        return
    click.echo(f"dead: {found.total}")
    if found.total:
        _show_table(("count", "last_error"), [[group["count"], group["last_error"]] for group in found.by_error])
        types = ("count", "event_type", "aggregate_type")
        _show_table(types, [[group[name] for name in types] for group in found.by_type])


def _show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal, tabs elsewhere."""
    console = Console()
    if not console.is_terminal:
        for row in (columns, *rows):
            click.echo("\t".join(_plain(value) for value in row))
        return
    table = Table()
    for name in columns:
        table.add_column(Text(name), overflow="fold", justify="right" if name == "count" else "left")
    for row in rows:
        table.add_row(*(Text(_plain(value)) for value in row))  # what a producer wrote is no markup
    console.print(table)


def _plain(value: object) -> str:
    """On one line, and without what would steer a terminal."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)
