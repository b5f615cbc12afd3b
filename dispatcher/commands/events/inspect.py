"""`events find`, `list` and `show`: change nothing, and say how to decide on what is dead."""

import json
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import click

from dispatcher.commands.event_options import EVENTS, EventParam, ask, filter_of, filters
from dispatcher.commands.options import database, json_output, options_together
from dispatcher.commands.tables import ago, plain, show_facts, show_table
from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.find import PAGE, Filter, parts_of
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.outbox_events import STATUSES, EventPage, find, list_events, show
from dispatcher.ops.pause import read_acknowledgements

COLUMNS = ("id", "event type", "aggregate", "status", "attempts", "when", "error")
paging = options_together(
    click.option(
        "--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="The most events to show."
    ),
    click.option("--after", metavar="NEXT", help="Go on where a page ended: the `next` that it told."),
    json_output,
    database,
)

# One page of events, given where it begins.
AskPage = Callable[[Fetch, str | None], Awaitable[EventPage]]


async def _max_attempts(fetch: Fetch) -> int | None:
    """The most that a running dispatcher gives an event; None: none runs, or none says it."""
    said = [each.condition.max_attempts for each in await read_acknowledgements(fetch)]
    return max((each for each in said if each is not None), default=None)


@click.command(name="list")
@click.option("--status", type=click.Choice(STATUSES), help="Only of this status.  [default: those that wait]")
@filters
@paging
def list_all(status: str | None, limit: int, after: str | None, as_json: bool, **flags: str | None) -> None:
    """List events by status: those that are due first; of dead and sent ones, the last inserted.

    Of discarded ones, those that died last, with who discarded them, when and why.

    With --json as the API does.
    """
    which = filter_of(flags)

    async def page(fetch: Fetch, begin: str | None) -> EventPage:
        return await list_events(fetch, status, which, limit=limit, after=begin)

    _pages(page, after, as_json, flags, _nothing(status, which != Filter()))


def _nothing(status: str | None, filtered: bool) -> str:
    """An empty list of what waits is no answer to whether there are events."""
    if status is not None:
        return f"No {status} event matches." if filtered else f"No event is {status}."
    waits = "No event that waits matches." if filtered else "No event waits."
    return f"{waits} --status sent (or dead, discarded) lists the others."


@click.command(name="find")
@click.argument("name", metavar="ID")
@paging
def find_events(name: str, limit: int, after: str | None, as_json: bool, **flags: str | None) -> None:
    """Find events in any status by the number of the row, event_id, message_id or aggregate_id.

    An aggregate may be named with its type too, as order/4711.

    A row or an event_id is found at once. For the others the table is read from the newest row down: Ctrl-C ends it.

    Exit code 1 when there is none.
    """
    if not name:
        raise click.UsageError("ID must not be empty.")

    async def page(fetch: Fetch, begin: str | None) -> EventPage:
        return await find(fetch, name, limit=limit, after=begin)

    if not _pages(page, after, as_json, flags, ""):
        raise DispatcherError(
            f"no event has the row number, event_id, message_id, aggregate_id or type/aggregate_id '{plain(name)}'"
        )


@click.command(name="show")
@click.argument("event", type=EventParam())
@click.option("--payload", is_flag=True, help="Show payload and headers too.")
@json_output
@database
def show_event(event: EventRef, payload: bool, as_json: bool, **flags: str | None) -> None:
    """Show one event in any status: its failed attempts, and what people decided.

    Of each attempt: when it was, which dispatcher made it, the error, and where a handler raised.
    """

    async def question(fetch: Fetch) -> tuple[str | None, int | None]:
        return await show(fetch, event, payload=payload), await _max_attempts(fetch)

    found, most = ask(flags, question, EVENTS)
    if found is None:
        raise DispatcherError(f"no event has the id {event}; `dispatcher events find` looks for other names")
    if as_json:
        click.echo(f'{{"max_attempts": {json.dumps(most)}, {found[1:]}')
        return
    parts = dict(parts_of(found))
    history, discarded = parts.pop("history"), parts.pop("discarded")
    parts["attempts"] = _attempts(parts["attempts"], most)
    if discarded:
        parts["discarded"] = f"{discarded['at']} by {discarded['by']}: {discarded['reason']}"
    show_facts([(name, value) for name, value in parts.items() if value is not None])
    if history:
        click.echo()
        rows = [[each["at"], each["what"], each["attempt"], each["by"], _error_and_place(each)] for each in history]
        show_table(("at", "what", "attempt", "by", "error or reason"), rows, right=("attempt",))
    _say_how_to_decide(str(parts["id"]), {str(parts["status"])})


def _say_how_to_decide(event: str, statuses: Collection[str]) -> None:
    if "dead" in statuses:
        click.echo(
            f"Decide: `dispatcher events retry {event}`, or `dispatcher events discard {event} --reason 'WHY'`",
            err=True,
        )
    if "retry" in statuses:
        click.echo(f"Try it now: `dispatcher events retry {event}`", err=True)


def _pages(page: AskPage, after: str | None, as_json: bool, flags: dict[str, str | None], nothing: str) -> int:
    """Show one page, however many looks it takes; returns how many events it has."""
    events, following, most = ask(flags, lambda fetch: _collect(fetch, page, after), EVENTS)
    if as_json:
        click.echo(json.dumps({"events": events, "next": following, "max_attempts": most}))
        return len(events)
    if events and "discarded" in events[0]:
        rows = [
            [each["id"], each["event_type"], each["aggregate_id"], ago(said["at"]), said["by"], said["reason"]]
            for each in events
            for said in [each["discarded"]]
        ]
        show_table(("id", "event type", "aggregate", "when", "by", "reason"), rows, right=("id",))
    elif events:
        rows = [
            [
                each["id"],
                each["event_type"],
                each["aggregate_id"],
                each["status"],
                _attempts(each["attempts"], most if each["status"] == "retry" else None),
                _when(each),
                each["last_error"],
            ]
            for each in events
        ]
        show_table(COLUMNS, rows, right=("id", "attempts"))
        _say_how_to_decide("ID", {each["status"] for each in events})
    elif nothing:
        click.echo(nothing)
    if following:
        click.echo(f"There may be more: --after {following}", err=True)
    return len(events)


async def _collect(
    fetch: Fetch, ask_page: AskPage, after: str | None
) -> tuple[list[dict[str, Any]], str | None, int | None]:
    while True:
        page = await ask_page(fetch, after)
        events, after = json.loads(page.events), page.next
        if after is None or events:
            return events, after, await _max_attempts(fetch)


def _attempts(done: int, most: int | None) -> str:
    return f"{done} of {most}" if done and most else str(done)


def _when(event: dict[str, Any]) -> str | None:
    """The moment that matters for its status."""
    if event["status"] == "sent":
        return ago(event["sent_at"])
    if event["status"] == "picked":
        return ago(event["picked_at"])
    if event["status"] in ("retry", "scheduled"):
        return ago(event["due_at"]) or "parked"
    return ago(event["occurred_at"])


def _error_and_place(step: dict[str, Any]) -> str | None:
    place = f" ({step['where']})" if step["where"] else ""
    return f"{step['error']}{place}" if step["error"] else place.strip() or None
