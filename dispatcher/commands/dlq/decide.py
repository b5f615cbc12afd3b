"""`dlq retry` and `dlq discard`: what a person decides of dead events. `events retry` and `discard` do the same."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from dispatcher.commands.decisions import NAMED, Deciding, carry_out, chosen, decide, reason, tell_left, why
from dispatcher.commands.event_options import DEAD_LETTERS
from dispatcher.commands.tables import plain
from dispatcher.core.counted import counted
from dispatcher.core.errors import Misconfigured
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters import decide as ops
from dispatcher.ops.dead_letters.decide import Bulk, Decided, Decision, find_dead
from dispatcher.ops.dead_letters.find import Filter, count
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.outbox_events import show
from dispatcher.ops.session import operator

PAST = {"retry": "Retried", "discard": "Discarded"}
QUESTION = {"retry": "Publish them again?", "discard": "Discard them? Nobody will receive them."}

chosen_dead = chosen("Every dead event.", "Only count the events that match.")


@click.command(name="retry")
@why
@chosen_dead
def retry_dead(reason: str | None, **choice: Any) -> int:
    """Publish dead events again: those named, or those that match.

    They go back to 'pending' with no attempts made, and a running dispatcher publishes each with the event_id it had.
    First remove the cause of their failure. An event that is not dead is left alone, so repeating a retry is safe.

    Exit code 1 when one of those named was not dead.
    """
    return decide_dead(Decision("retry", operator(), reason), choice)


@click.command(name="discard")
@reason
@chosen_dead
def discard_dead(reason: str, **choice: Any) -> int:
    """Decide that nobody needs dead events: those named, or those that match.

    They do not go out, and are not dead any more. Their copies, with their payload, stay for DLQ_RETENTION_DAYS:
    `dispatcher events show` has them, with who discarded them and why.

    \b
    dispatcher dlq discard 4711 4712 --reason 'the order was cancelled'
    dispatcher dlq discard --error-like 'no such customer' --reason 'test data' --dry-run

    Exit code 1 when one of those named was not dead.
    """
    return decide_dead(Decision("discard", operator(), reason), choice)


def decide_dead(decision: Decision, choice: dict[str, Any]) -> int:
    """With the arguments that deciding.decide() has; the exit code."""
    how = Deciding(
        subject=DEAD_LETTERS,
        example="--event-type",
        instead="events that match filters: `dlq show` looks at one event.",
        matching="Dead events that match",
        past=PAST[decision.what],
        question=QUESTION[decision.what],
        count=_count,
        find=find_dead,
        run=partial(_run, decision),
        nothing=lambda total: _as_text(total, 0, []),
        advise=_advise,
    )
    return decide(how, **choice)


async def _count(fetch: Fetch, which: Filter) -> int:
    return (await count(fetch, which)).total


def _advise(which: Filter) -> None:
    if which.last_error:
        click.echo("--error is compared with the whole text: try --error-like with a part of it.", err=True)
    if which.error_code:
        click.echo("--error-code wants a code as `dispatcher dlq stats` lists it.", err=True)


async def _run(decision: Decision, fetch: Fetch, events: Sequence[EventRef], as_json: bool) -> int:
    bulk, past = Bulk(lambda some: ops.decide(fetch, some, decision), Decided()), PAST[decision.what]
    run = await carry_out(bulk, events, lambda done: len(done.ids) + len(done.tried))
    if as_json:
        click.echo(_as_text(len(events), len(run.ids) + len(run.tried), run.not_dead))
    else:
        if run.ids or not run.tried:
            click.echo(f"{past} {counted(len(run.ids), 'event')}.")
        if run.tried:
            click.echo(_tried_now(run.tried))
    if run.forbidden:
        raise Misconfigured(
            f"not retried: {counted(len(run.not_dead), 'event')}; the rows of some were pruned, and this role may not "
            "put their copies back into messaging.message_outbox; run `dispatcher sql roles | psql OWNER_URL` again"
        )
    if not as_json:
        tell_left(past, "neither dead nor tried again" if decision.tried else "not dead", run.not_dead)
        for event in run.not_dead[:NAMED]:
            click.echo(f"  {_instead(event, await show(fetch, event))}", err=True)
    return 1 if run.not_dead else 0


def _tried_now(rows: Sequence[int]) -> str:
    """Of events in status retry, which keep the attempts that failed."""
    one = len(rows) == 1
    said = f"Trying {counted(len(rows), 'event')} now, with the attempts that {'it has' if one else 'they have'} left. "
    look = f"events show {rows[0]}" if one else "events list --status retry"
    return f"{said}See what became of {'it' if one else 'them'} in a moment: `dispatcher {look}`."


def _instead(event: EventRef, found: str | None) -> str:
    """What an event is that is not dead, and what its next step is."""
    if found is None:
        return f"{event}: no such event; `dispatcher events find {event}` looks for other names"
    one = json.loads(found)
    due = f" at {one['due_at']}" if one["due_at"] else ""
    match one["status"]:
        case "sent":
            return f"{event} was sent: `dispatcher replay --event-id {one['event_id']}` publishes it again"
        case "retry":
            again = f"{event} is tried again by itself{due or ', once somebody sets next_run_at'}"
            return f"{again}; `dispatcher events retry {one['id']}` tries it now"
        case "discarded":
            said = one["discarded"]
            return f"{event} was discarded by {plain(said['by'])}: {plain(said['reason'])}"
        case "picked":
            return f"{event} is being published now"
        case "scheduled":
            return f"{event} is scheduled: it goes out by itself{due}"
    return f"{event} is {one['status']}: it goes out by itself"


def _as_text(requested: int, processed: int, not_dead: Sequence[EventRef]) -> str:
    """One JSON object, as the API's retry-batch and discard-batch answer."""
    names = [event if isinstance(event, int) else str(event) for event in not_dead]
    return json.dumps({"requested": requested, "processed": processed, "not_dead": names})
