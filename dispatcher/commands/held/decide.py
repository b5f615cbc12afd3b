"""`held retry` and `held skip`: what a person decides of events that hold their aggregates."""

from collections.abc import Sequence

import click

from dispatcher.commands.dlq.options import Event, ask, filter_of, filters
from dispatcher.commands.held.inspect import OFF
from dispatcher.commands.options import database, json_output, require_terminal, together, yes
from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.held.decide import BulkHeldDecision, HeldDecided, HeldDecision, HeldSession, as_text
from dispatcher.ops.held.find import find_held, read_order
from dispatcher.ops.session import operator

NAMED = 10  # events named in a message
PAST = {"retry": "Retried", "skip": "Skipped"}
QUESTION = {"retry": "Try them now?", "skip": "Skip these events? Nobody will receive them."}

chosen = together(
    click.argument("events", type=Event(), nargs=-1),
    filters,
    click.option("--all", "everything", is_flag=True, help="Every event that holds its aggregate."),
    click.option("--dry-run", is_flag=True, help="Only count the aggregates that match."),
    yes,
    json_output,
    database,
)


@click.command(name="retry")
@chosen
def retry_held(
    events: tuple[EventRef, ...], everything: bool, dry_run: bool, yes: bool, as_json: bool, **flags: str | None
) -> int:
    """Try events that hold their aggregates now: those named, or those that match.

    One that was tried is due at once, with the attempts that it has left. One that is dead is published as if it were
    new. Those behind it follow when it went out. First remove the cause of the failure. Repeating a retry is safe.

    Exit code 1 when one of those named holds nothing, or is being published now.
    """
    return _decide(HeldDecision("retry", operator()), events, everything, dry_run, yes, as_json, flags)


@click.command(name="skip")
@click.option("--reason", metavar="TEXT", required=True, help="Why nobody needs them, for their history. No secrets.")
@chosen
def skip_held(
    reason: str,
    events: tuple[EventRef, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Let the later events of an aggregate go out without the one that holds it: those named, or those that match.

    What is skipped does not go out. Its copy, with its payload, stays for DLQ_RETENTION_DAYS: `dispatcher events show`
    has it, with who skipped it and why. An event that is being published at this moment is not skipped.

    \b
    dispatcher held skip 4711 --reason 'the order was cancelled'
    dispatcher held skip --aggregate-type order --aggregate-id 42 --reason 'test data' --dry-run

    Exit code 1 when one of those named holds nothing, or is being published now.
    """
    if not (reason := " ".join(reason.split())):
        raise click.UsageError("--reason must say why, in a few words.")
    return _decide(HeldDecision("skip", operator(), reason[:200]), events, everything, dry_run, yes, as_json, flags)


def _decide(
    decision: HeldDecision,
    events: tuple[EventRef, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    flags: dict[str, str | None],
) -> int:
    which = filter_of(flags)
    if sum([bool(events), which != Filter(), everything]) != 1:
        raise click.UsageError(
            "Choose the events in one way: by ids, by filters such as --aggregate-id, or with --all."
        )
    if events and dry_run:
        raise click.UsageError("--dry-run counts aggregates that match filters: `held list` shows them.")
    if events:
        return ask(flags, lambda fetch: _run(fetch, decision, events, as_json), HeldSession)
    if not dry_run and not yes:
        require_terminal()
    total = ask(flags, lambda fetch: _count(fetch, which), HeldSession)
    if not as_json or not (yes or dry_run):
        click.echo(f"Held aggregates that match: {total}", err=as_json)
    if dry_run or not total:
        if as_json:
            click.echo(as_text(total, HeldDecided()))
        return 0
    if not yes and not click.confirm(QUESTION[decision.what], err=as_json):  # no event loop runs: Ctrl-C ends it
        click.echo(f"Nothing was {PAST[decision.what].lower()}.", err=as_json)
        return 1
    ask(flags, lambda fetch: _run(fetch, decision, which, as_json), HeldSession)
    return 0  # one that holds nothing any more went out, or somebody else decided on it


async def _count(fetch: Fetch, which: Filter) -> int:
    page = await find_held(fetch, which, limit=1)
    if not page.order.on:
        raise DispatcherError(OFF)
    return page.total


async def _run(fetch: Fetch, decision: HeldDecision, wanted: Sequence[EventRef] | Filter, as_json: bool) -> int:
    if not (await read_order(fetch)).on:
        raise DispatcherError(OFF)
    run = BulkHeldDecision(fetch, decision)
    events = await run.matching(wanted) if isinstance(wanted, Filter) else wanted
    past, done = PAST[decision.what], run.done
    try:
        await run.named(events, lambda done, of: click.echo(f"{done} of {of} events", err=True))
    except DispatcherError:
        click.echo(f"Stopped after {len(done.ids)} events. The same command goes on with the rest.", err=True)
        raise
    if as_json:
        click.echo(as_text(len(events), done))
    else:
        click.echo(f"{past} {_events(done.ids)}.")
        for left, why in ((done.in_flight, "being tried now, ask again"), (done.not_held, "holding nothing")):
            if left:
                named = ", ".join(map(str, left[:NAMED])) + (", ..." if len(left) > NAMED else "")
                click.echo(f"Not {past.lower()}, because {why}: {_events(left)} ({named})", err=True)
    return 1 if done.in_flight or done.not_held else 0


def _events(listed: Sequence[EventRef]) -> str:
    return f"{len(listed)} event{'s' if len(listed) != 1 else ''}"
