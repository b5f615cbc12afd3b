"""`dlq list`, `show` and `stats`: change nothing."""

import json
from contextlib import suppress

import anyio
import click

from dispatcher.commands.event_options import EventParam, ask, filter_of, filters
from dispatcher.commands.options import database, json_output
from dispatcher.commands.tables import ago, show_facts, show_table
from dispatcher.core.counted import counted
from dispatcher.core.errors import DispatcherError
from dispatcher.core.findings.remedies import TRY_ONE, before_retry, of_group
from dispatcher.ops.dead_letters.find import PAGE, Filter, count, find_one, find_page, parts_of
from dispatcher.ops.dead_letters.identity import EventRef

NAMED = 10  # groups of which the commands are shown
REDIS_S = 2.0  # so long an empty list waits for Redis


@click.command(name="list")
@filters
@click.option("--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="The most events to list.")
@click.option("--before", type=click.IntRange(1), metavar="ID", help="Only those before this row: the next page.")
@click.option("--offset", type=click.IntRange(0, 10**9), default=0, help="Events to leave out at the start.")
@click.option("--payload", is_flag=True, help="With payload and headers; with --json only.")
@json_output
@database
def list_dead(limit: int, before: int | None, offset: int, payload: bool, as_json: bool, **flags: str | None) -> None:
    """List dead events, the newest first. With --json as the API does."""
    if payload and not as_json:
        raise click.UsageError("--payload is shown with --json, or for one event by `dispatcher dlq show`.")
    which = filter_of(flags)
    page = ask(flags, lambda fetch: find_page(fetch, which, limit=limit, offset=offset, before=before, payload=payload))
    if as_json:
        click.echo(f'{{"events": {page.events}, "count": {page.count}, "limit": {limit}, "offset": {offset}}}')
        return
    events = json.loads(page.events)
    if not events:
        click.echo("No dead event matches." if which != Filter() else "No event is dead.")
        for group, dead in _dead_of_groups(flags).items() if which == Filter() else ():
            away = f"Consumers of the group {group} have put away {counted(dead, 'entry')}"
            click.echo(f"{away}: `dispatcher groups dead {group}`", err=True)
        return
    rows = [
        [
            each["id"],
            each["event_type"],
            each["aggregate_id"],
            each["attempts"],
            ago(each["died_at"]),
            each["last_error"],
        ]
        for each in events
    ]
    show_table(("id", "event type", "aggregate", "attempts", "died", "error"), rows, right=("id", "attempts"))
    if page.count == limit:
        click.echo(f"There may be more: --before {events[-1]['id']}", err=True)


@click.command()
@click.argument("event", type=EventParam())
@click.option("--payload", is_flag=True, help="Show payload and headers too.")
@json_output
@database
def show(event: EventRef, payload: bool, as_json: bool, **flags: str | None) -> None:
    """Show one dead event, by the number of its row or its event_id. `events show` has its attempts too."""
    found = ask(flags, lambda fetch: find_one(fetch, event, payload=payload))
    if found is None:
        raise DispatcherError(f"no dead event has the id {event}; see `dispatcher events show {event}`")
    if as_json:
        click.echo(found)
        return
    show_facts(parts_of(found))


@click.command()
@filters
@json_output
@database
def stats(as_json: bool, **flags: str | None) -> None:
    """Count dead events: all, by error, by type.

    Errors that differ only in figures are one group; # stands for the figures. The code of a group is what --error-code
    takes.
    """
    which = filter_of(flags)
    found = ask(flags, lambda fetch: count(fetch, which))
    if as_json:
        groups = {"by_error": found.by_error, "by_type": found.by_type}
        click.echo(json.dumps({"total": found.total, **groups}))
        return
    click.echo(f"dead: {found.total}")
    if found.total:
        rows = [
            [each["count"], ago(each["last_at"]), each["code"] or "(none)", _figures(each["figures"])]
            for each in found.by_error
        ]
        show_table(("count", "newest", "error code", "figures"), rows, right=("count",))
        for each in found.by_error[:NAMED]:
            if (option := of_group(each["code"])) is None:
                continue
            retry, discard = f"dispatcher dlq retry {option}", f"dispatcher dlq discard {option} --reason 'WHY'"
            click.echo(f"{before_retry(each['code'], each['figures'])} `{retry}`; or `{discard}`.", err=True)
        if found.by_error:
            click.echo(f"{TRY_ONE.format('a cause')}; `dispatcher dlq list` has the ids.", err=True)
        types = ("count", "event_type", "aggregate_type")
        rows = [[group[name] for name in types] for group in found.by_type]
        show_table(("count", "event type", "aggregate type"), rows, right=("count",))


def _dead_of_groups(flags: dict[str, str | None]) -> dict[str, int]:
    """How many entries each group's consumers put away; nothing where Redis is not named, or does not answer."""
    from dispatcher.commands.groups.options import servers_of  # here: only an empty list asks Redis
    from dispatcher.ops.groups import GroupsQuestion, read_groups

    async def ask_groups() -> dict[str, int]:
        at, found = await servers_of(flags), dict[str, int]()
        streams, _ = await read_groups(GroupsQuestion(at.url, tuple(at.keys), None, timeout_s=REDIS_S))
        for group in (group for stream in streams for group in stream.groups if group.dead):
            found[group.name] = found.get(group.name, 0) + (group.dead or 0)
        return found

    with suppress(DispatcherError):
        return anyio.run(ask_groups)
    return {}


def _figures(figures: list[list[int]]) -> str:
    """Least and greatest of those that differ."""
    return ", ".join(f"{least} to {greatest}" for least, greatest in figures) or "-"
