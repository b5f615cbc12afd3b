"""`dlq retry`: publishes dead events again."""

import json
import sys
from collections.abc import Sequence

import click

from dispatcher.commands.dlq.options import Event, ask, database, filter_of, filters, json_output
from dispatcher.core.errors import DispatcherError, Misconfigured
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.find import PAGE, Filter, Stats, count, find_page
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.dead_letters.retry import BATCH, retry


@click.command(name="retry")
@click.argument("events", type=Event(), nargs=-1)
@filters
@click.option("--all", "everything", is_flag=True, help="Every dead event.")
@click.option("--dry-run", is_flag=True, help="Only count those that match.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_output
@database
def retry_dead(
    events: tuple[EventRef, ...], everything: bool, dry_run: bool, yes: bool, as_json: bool, **flags: str | None
) -> int:
    """Publish dead events again: those named, or those that match.

    They go back to 'pending' with no attempts made, and a running dispatcher publishes them, each with the event_id it
    had. Mend what they died of first. One that is not dead (any more) is left alone, so nothing is done twice.

    Exit code 1 when one of those named was not dead.
    """
    which = filter_of(flags)
    ways = [bool(events), which != Filter(), everything]
    if sum(ways) != 1:
        raise click.UsageError("Say which: ids, or filters such as --event-type, or --all; one of the three.")
    if not events and not dry_run and not yes and not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on: give --yes, or --dry-run to look first.")
    if events:
        if dry_run:
            raise click.UsageError("--dry-run counts those that match filters: `dlq show` looks at one event.")
        return ask(flags, lambda fetch: _retry_all(fetch, events, as_json))
    found: Stats = ask(flags, lambda fetch: count(fetch, which))
    if not as_json or not (yes or dry_run):
        click.echo(f"Dead events that match: {found.total}", err=as_json)
    if dry_run or not found.total:
        if as_json:
            click.echo(_as_text(found.total, 0, []))
        return 0
    if not yes and not click.confirm("Publish them again?", err=as_json):  # no event loop runs: Ctrl-C ends it
        click.echo("Nothing was retried.", err=as_json)
        return 1
    return ask(flags, lambda fetch: _retry_matching(fetch, which, as_json))


async def _retry_matching(fetch: Fetch, which: Filter, as_json: bool) -> int:
    """Named first, from the last to the first, then put back in the order they were inserted."""
    events: list[EventRef] = []
    before: int | None = None
    while before is None or events:
        page = json.loads((await find_page(fetch, which, limit=PAGE, before=before)).events)
        events += [event["id"] for event in page]
        if len(page) < PAGE:
            break
        before = page[-1]["id"]
    await _retry_all(fetch, events[::-1], as_json)
    return 0  # one that is not dead any more was retried by somebody else


async def _retry_all(fetch: Fetch, events: Sequence[EventRef], as_json: bool) -> int:
    done, not_dead = 0, list[EventRef]()
    forbidden = False
    try:
        for start in range(0, len(events), BATCH):
            batch = await retry(fetch, events[start : start + BATCH])
            done += len(batch.ids)
            not_dead += batch.not_dead
            forbidden = forbidden or batch.forbidden
            if len(events) > BATCH:
                click.echo(f"{min(start + BATCH, len(events))} of {len(events)} events", err=True)
    except DispatcherError:
        click.echo(f"Stopped after {done} events. The same command goes on with what is left.", err=True)
        raise
    if as_json:
        click.echo(_as_text(len(events), done, not_dead))
    else:
        click.echo(f"Retried {done} events." if done != 1 else "Retried 1 event.")
    if forbidden:
        raise Misconfigured(
            f"{len(not_dead)} events were not retried: the rows of some were pruned, and this role may not put their "
            "copies back into messaging.message_outbox; run sql/roles.sql again"
        )
    if not_dead and not as_json:
        named = ", ".join(map(str, not_dead[:10])) + (" ..." if len(not_dead) > 10 else "")
        click.echo(f"Not dead (any more): {len(not_dead)}, {named}", err=True)
    return 0 if not not_dead else 1


def _as_text(requested: int, processed: int, not_dead: Sequence[EventRef]) -> str:
    """One JSON object, as the API's retry-batch answers."""
    names = [event if isinstance(event, int) else str(event) for event in not_dead]
    return json.dumps({"requested": requested, "processed": processed, "not_dead": names})
