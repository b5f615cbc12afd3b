"""`held list`: changes nothing."""

from typing import Any

import click

from dispatcher.commands.event_options import HELD, ask, filter_of, filters
from dispatcher.commands.options import database, json_output
from dispatcher.commands.tables import ago, show_table
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.held.find import BOUND, PAGE, HeldPage, find_held

OFF = "Order is off (DISPATCH_ORDER=none): no event waits for another one."
TRIED = "Tried again by itself at the time shown: `held retry` tries it now; `held skip` lets the others go without it."
DEAD = "Not tried again by itself: `held retry` publishes it, then the others; `held skip` the others without it."
PARKED = "A person parked it (next_run_at infinity): `held retry` lets it go out, then the others."


@click.command(name="list")
@filters
@click.option("--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="The most to list.")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="ID", help="Only those after this row: the next page."
)
@json_output
@database
def list_held(limit: int, after: int, as_json: bool, **flags: str | None) -> None:
    """List held aggregates, and what to do about each.

    Of each it shows the event that holds it: its id, its error, since when it fails, when it is tried next; and how
    many events wait behind it. Those held by the oldest event come first. With --json as the API does.

    A list shows all columns with --json, and reads everything that is not settled to count what waits.
    """
    which = filter_of(flags)
    page: HeldPage = ask(flags, lambda fetch: find_held(fetch, which, limit=limit, after=after), HELD)
    if as_json:
        click.echo(page.as_json(limit))
        return
    if not page.order.on:
        click.echo(OFF)
        return
    found = page.read()
    if not found:
        click.echo("No held aggregate matches." if which != Filter() else "No aggregate is held.")
        return
    click.echo(f"held aggregates: {page.total}")
    columns = ("id", "aggregate type", "aggregate", "waiting", "held", "state", "next try", "attempts", "error")
    show_table(columns, [_row(each) for each in found], right=("id", "waiting", "attempts"))
    states = {each["state"] for each in found}
    for state, words in (("retry", TRIED), ("dead", DEAD), ("parked", PARKED)):
        if state in states:
            click.echo(f"{state}: {words}")
    if page.count == limit:
        click.echo(f"There may be more: --after {found[-1]['id']}", err=True)


def _row(each: dict[str, Any]) -> list[object]:
    tried = "now" if each["state"] == "in_flight" else ago(each["next_attempt_at"])
    return [
        each["id"],
        each["aggregate_type"],
        each["aggregate_id"],
        f"more than {BOUND - 1}" if each["waiting"] >= BOUND else each["waiting"],
        ago(each["since"]),
        each["state"].replace("_", " "),
        tried,
        each["attempts"],
        each["last_error"],
    ]
