"""`dlq retry` and `dlq discard`: what a person decides of dead events."""

import json
from collections.abc import Sequence

import click

from dispatcher.commands.dlq.options import Event, ask, filter_of, filters
from dispatcher.commands.options import database, json_output, require_terminal, together, yes
from dispatcher.core.counted import counted
from dispatcher.core.errors import DispatcherError, Misconfigured
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.decide import BulkDecision, Decision
from dispatcher.ops.dead_letters.find import Filter, Stats, count
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.session import operator

NAMED = 10  # events named in a message
PAST = {"retry": "Retried", "discard": "Discarded"}
QUESTION = {"retry": "Publish them again?", "discard": "Discard them? Nobody will receive them."}

chosen = together(
    click.argument("events", type=Event(), nargs=-1),
    filters,
    click.option("--all", "everything", is_flag=True, help="Every dead event."),
    click.option("--dry-run", is_flag=True, help="Only count the events that match."),
    yes,
    json_output,
    database,
)


@click.command(name="retry")
@chosen
def retry_dead(
    events: tuple[EventRef, ...], everything: bool, dry_run: bool, yes: bool, as_json: bool, **flags: str | None
) -> int:
    """Publish dead events again: those named, or those that match.

    They go back to 'pending' with no attempts made, and a running dispatcher publishes each with the event_id it had.
    First remove the cause of their failure. An event that is not dead is left alone, so repeating a retry is safe.

    Exit code 1 when one of those named was not dead.
    """
    return _decide(Decision("retry", operator()), events, everything, dry_run, yes, as_json, flags)


@click.command(name="discard")
@click.option("--reason", metavar="TEXT", required=True, help="Why nobody needs them, for their history. No secrets.")
@chosen
def discard_dead(
    reason: str,
    events: tuple[EventRef, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Decide that nobody needs dead events: those named, or those that match.

    They do not go out, and are not dead any more. Their copies, with their payload, stay for DLQ_RETENTION_DAYS:
    `dispatcher events show` has them, with who discarded them and why.

    \b
    dispatcher dlq discard 4711 4712 --reason 'the order was cancelled'
    dispatcher dlq discard --error-like 'no such customer' --reason 'test data' --dry-run

    Exit code 1 when one of those named was not dead.
    """
    if not (reason := " ".join(reason.split())):
        raise click.UsageError("--reason must say why, in a few words.")
    return _decide(Decision("discard", operator(), reason[:200]), events, everything, dry_run, yes, as_json, flags)


def _decide(
    decision: Decision,
    events: tuple[EventRef, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    flags: dict[str, str | None],
) -> int:
    which = filter_of(flags)
    if sum([bool(events), which != Filter(), everything]) != 1:
        raise click.UsageError("Choose the events in one way: by ids, by filters such as --event-type, or with --all.")
    if events and dry_run:
        raise click.UsageError("--dry-run counts events that match filters: `dlq show` looks at one event.")
    if events:
        return ask(flags, lambda fetch: _run(fetch, decision, events, as_json))
    if not dry_run and not yes:
        require_terminal()
    found: Stats = ask(flags, lambda fetch: count(fetch, which))
    if not as_json or not (yes or dry_run):
        click.echo(f"Dead events that match: {found.total}", err=as_json)
    if not found.total and which.last_error:
        click.echo("--error is compared with the whole text: try --error-like with a part of it.", err=True)
    if not found.total and which.error_code:
        click.echo("--error-code wants a code as `dispatcher dlq stats` lists it.", err=True)
    if dry_run or not found.total:
        if as_json:
            click.echo(_as_text(found.total, 0, []))
        return 0
    if not yes and not click.confirm(QUESTION[decision.what], err=as_json):  # no event loop runs: Ctrl-C ends it
        click.echo(f"Nothing was {PAST[decision.what].lower()}.", err=as_json)
        return 1
    ask(flags, lambda fetch: _run(fetch, decision, which, as_json))
    return 0  # one that is not dead any more was decided by somebody else


async def _run(fetch: Fetch, decision: Decision, wanted: Sequence[EventRef] | Filter, as_json: bool) -> int:
    run = BulkDecision(fetch, decision)
    events = await run.matching(wanted) if isinstance(wanted, Filter) else wanted
    done = PAST[decision.what]
    try:
        await run.named(events, lambda done, of: click.echo(f"{done} of {of} events", err=True))
    except DispatcherError:
        click.echo(f"Stopped after {counted(run.done, 'event')}. The same command goes on with the rest.", err=True)
        raise
    if as_json:
        click.echo(_as_text(len(events), run.done, run.not_dead))
    else:
        click.echo(f"{done} {run.done} event{'s' if run.done != 1 else ''}.")
    if run.forbidden:
        raise Misconfigured(
            f"{len(run.not_dead)} events were not retried: the rows of some were pruned, and this role may not put "
            "their copies back into messaging.message_outbox; run sql/roles.sql again"
        )
    if run.not_dead and not as_json:
        named = ", ".join(map(str, run.not_dead[:NAMED])) + (", ..." if len(run.not_dead) > NAMED else "")
        many = f"{len(run.not_dead)} event{'s' if len(run.not_dead) != 1 else ''}"
        click.echo(f"Not {done.lower()}, because not dead: {many} ({named})", err=True)
    return 1 if run.not_dead else 0


def _as_text(requested: int, processed: int, not_dead: Sequence[EventRef]) -> str:
    """One JSON object, as the API's retry-batch and discard-batch answer."""
    names = [event if isinstance(event, int) else str(event) for event in not_dead]
    return json.dumps({"requested": requested, "processed": processed, "not_dead": names})
