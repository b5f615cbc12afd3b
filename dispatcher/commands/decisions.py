"""Decisions on events (`dlq retry`, `events retry`, `held skip` ...): a person chooses, sees how many, and says yes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import click

from dispatcher.commands.event_options import EventParam, ask, filter_of, filters
from dispatcher.commands.options import F, database, json_output, options_together, require_terminal, yes
from dispatcher.core.counted import counted
from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.decide import Bulk, D
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.dead_letters.identity import EventRef

NAMED = 10  # events named in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """How one of these commands speaks, and what it does."""

    subject: Sequence[str]  # of ask()
    example: str  # a flag that filters
    instead: str  # of --dry-run with ids
    matching: str  # before the number of those that match
    past: str  # "Retried"
    question: str
    count: Callable[[Fetch, Filter], Awaitable[int]]
    find: Callable[[Fetch, Filter], Awaitable[list[EventRef]]]  # all that match
    run: Callable[[Fetch, Sequence[EventRef], bool], Awaitable[int]]  # with as_json; decides, reports; exit code
    nothing: Callable[[int], str]  # the JSON object when so many match and none was decided
    advise: Callable[[Filter], None] = lambda which: None  # when none matches


def chosen(every: str, dry_run: str) -> Callable[[F], F]:
    """The arguments of decide(). `every` and `dry_run`: the help of --all and --dry-run."""
    return options_together(
        click.argument("events", type=EventParam(), nargs=-1),
        filters,
        click.option("--all", "everything", is_flag=True, help=every),
        click.option("--dry-run", is_flag=True, help=dry_run),
        yes,
        json_output,
        database,
    )


def _in_words(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    if not (words := " ".join(value.split())):
        raise click.UsageError("--reason must say why, in a few words.")
    if words.strip(".… ") in ("", "WHY"):  # copied as it stood in an example
        raise click.UsageError("--reason must say why, in a few words: it stays in the history of the event.")
    return words[:200]


reason = click.option(
    "--reason",
    metavar="TEXT",
    required=True,
    callback=_in_words,
    help="Why nobody needs them, for their history. No secrets.",
)
why = click.option("--reason", metavar="TEXT", callback=_in_words, help="Why, for their history. No secrets.")


def decide(
    how: Deciding,
    *,
    events: tuple[EventRef, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Decide on the events named, or count those that match, ask, and decide; the exit code. Raises DispatcherError."""
    which = filter_of(flags)
    if sum([bool(events), which != Filter(), everything]) != 1:
        raise click.UsageError(
            f"Choose the events in one way: by ids, by filters such as {how.example}, or with --all."
        )
    if events and dry_run:
        raise click.UsageError(f"--dry-run counts {how.instead}")
    if events:
        return ask(flags, lambda fetch: how.run(fetch, events, as_json), how.subject)
    if not dry_run and not yes:
        require_terminal()
    total = ask(flags, lambda fetch: how.count(fetch, which), how.subject)
    if not as_json or not (yes or dry_run):
        click.echo(f"{how.matching}: {total}", err=as_json)
    if not total:
        how.advise(which)
    if dry_run or not total:
        if as_json:
            click.echo(how.nothing(total))
        return 0
    if not yes and not click.confirm(how.question, err=as_json):  # no event loop runs: Ctrl-C ends it
        click.echo(f"Nothing was {how.past.lower()}.", err=as_json)
        return 1

    async def all_that_match(fetch: Fetch) -> None:
        await how.run(fetch, await how.find(fetch, which), as_json)

    ask(flags, all_that_match, how.subject)
    return 0  # one that is not what it was any more went out, or somebody else decided on it


async def carry_out(bulk: Bulk[D], events: Sequence[EventRef], decided: Callable[[D], int]) -> D:
    """Decide on them, with a line after each of several batches. `decided`: on how many, as `done` of `bulk` says."""
    try:
        await bulk.run(events, lambda so_far, of: click.echo(f"{so_far:,} of {counted(of, 'event')}", err=True))
    except DispatcherError:
        so_far = counted(decided(bulk.done), "event")
        click.echo(f"Stopped after {so_far}. The same command goes on with the rest.", err=True)
        raise
    return bulk.done


def tell_left(past: str, why: str, left: Sequence[EventRef]) -> None:
    """Say which were not decided; nothing, when there are none."""
    if left:
        named = ", ".join(map(str, left[:NAMED])) + (", ..." if len(left) > NAMED else "")
        click.echo(f"Not {past.lower()}, because {why}: {counted(len(left), 'event')} ({named})", err=True)
