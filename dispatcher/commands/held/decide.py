"""`held retry` and `held skip`: what a person decides of events that hold their aggregates."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from dispatcher.commands.decisions import Deciding, carry_out, chosen, decide, reason, tell_left, why
from dispatcher.commands.event_options import HELD
from dispatcher.commands.held.inspect import OFF
from dispatcher.core.counted import counted
from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.decide import Bulk, Decision
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.held.decide import HeldDecided, as_text, decide_held, find_heads
from dispatcher.ops.held.find import find_held, read_order
from dispatcher.ops.session import operator

NAMED = 10  # of so many it is asked whether an aggregate was meant
PAST = {"retry": "Retried", "skip": "Skipped"}
QUESTION = {"retry": "Try them now?", "skip": "Skip these events? Nobody will receive them."}

chosen_held = chosen("Every event that holds its aggregate.", "Only count the aggregates that match.")


@click.command(name="retry")
@why
@chosen_held
def retry_held(reason: str | None, **choice: Any) -> int:
    """Try events that hold their aggregates now: those named, or those that match.

    One that was tried is due at once, with the attempts that it has left. One that is dead is published as if it were
    new. Those behind it follow when it went out. First remove the cause of the failure. Repeating a retry is safe.

    Exit code 1 when one of those named holds nothing, or is being published now.
    """
    return _decide(Decision("retry", operator(), reason), choice)


@click.command(name="skip")
@reason
@chosen_held
def skip_held(reason: str, **choice: Any) -> int:
    """Let the later events of an aggregate go out without the one that holds it: those named, or those that match.

    What is skipped does not go out. Its copy, with its payload, stays for DLQ_RETENTION_DAYS: `dispatcher events show`
    has it, with who skipped it and why. An event that is being published at this moment is not skipped.

    \b
    dispatcher held skip 4711 --reason 'the order was cancelled'
    dispatcher held skip --aggregate-type order --aggregate-id 42 --reason 'test data' --dry-run

    Exit code 1 when one of those named holds nothing, or is being published now.
    """
    return _decide(Decision("skip", operator(), reason), choice)


def _decide(decision: Decision, choice: dict[str, Any]) -> int:
    how = Deciding(
        subject=HELD,
        example="--aggregate-id",
        instead="aggregates that match filters: `held list` shows them.",
        matching="Held aggregates that match",
        past=PAST[decision.what],
        question=QUESTION[decision.what],
        count=_count,
        find=find_heads,
        run=partial(_run, decision),
        nothing=lambda total: as_text(total, HeldDecided()),
    )
    return decide(how, **choice)


async def _count(fetch: Fetch, which: Filter) -> int:
    page = await find_held(fetch, which, limit=1)
    if not page.order.on:
        raise DispatcherError(OFF)
    return page.total


async def _run(decision: Decision, fetch: Fetch, events: Sequence[EventRef], as_json: bool) -> int:
    if not (await read_order(fetch)).on:
        raise DispatcherError(OFF)
    bulk, past = Bulk(lambda some: decide_held(fetch, some, decision), HeldDecided()), PAST[decision.what]
    done = await carry_out(bulk, events, lambda done: len(done.ids))
    if as_json:
        click.echo(as_text(len(events), done))
    else:
        look = " See what became of it in a moment: `dispatcher held list`."
        click.echo(f"{past} {counted(len(done.ids), 'event')}.{look if done.ids and decision.what == 'retry' else ''}")
        tell_left(past, "being tried now, ask again", done.in_flight)
        tell_left(past, "holding nothing", done.not_held)
        for named in done.not_held[:NAMED]:
            meant = (await find_held(fetch, Filter(aggregate_id=str(named)), limit=1)).read()
            if meant:
                head = meant[0]["id"]
                said = f"{named} holds nothing. Did you mean event {head}, which holds aggregate {named}?"
                click.echo(said, err=True)
    return 1 if done.in_flight or done.not_held else 0
