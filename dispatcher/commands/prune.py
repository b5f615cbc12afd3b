"""`dispatcher prune`: deletes everything that is past its retention, at once."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import click

from dispatcher.commands.duration import duration, seconds_of
from dispatcher.commands.options import database, json_output, postgres_target, settings_from
from dispatcher.commands.tables import say
from dispatcher.core.counted import counted
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.prune import PruneSession

STATEMENT_S = 600.0  # counting reads the whole outbox


class Age(click.ParamType[float]):
    """A duration such as 7d or 12h, in seconds."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = seconds_of(str(value).strip())
        if seconds is None:
            self.fail(f"'{value}' is no duration such as 7d, 12h, 30m or 0s", param)
        return seconds


@click.command()
@click.option(
    "--outbox-older-than",
    type=Age(),
    metavar="AGE",
    help="Delete settled rows of this age, such as 12h.  [OUTBOX_RETENTION_DAYS]",
)
@click.option(
    "--dlq-older-than", type=Age(), metavar="AGE", help="Delete dead-letter copies of this age.  [DLQ_RETENTION_DAYS]"
)
@click.option("--only", type=click.Choice(["outbox", "dlq"]), help="Leave the other table alone.")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask. Without a terminal it never asks.")
@json_output
@database
def prune(
    outbox_older_than: float | None,
    dlq_older_than: float | None,
    only: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Delete settled rows and dead-letter copies that are past their retention.

    Dispatchers do this by themselves. Use it to delete sooner, or while all of them are disabled. Rows that are not
    settled are never deleted; the copy of a dead row stays in the dead-letter queue until the copy is too old.
    With DISPATCH_ORDER_ON_DEAD=hold dead rows stay too, until each is retried or skipped: it says how many.

    \b
    dispatcher prune --dry-run
    dispatcher prune --outbox-older-than 12h --only outbox

    The age of a sent row counts from when it was sent, that of a dead row from its last claim, that of a copy from the
    event's death. It deletes in small batches beside running dispatchers, and can be stopped at any time. On a terminal
    it first shows how many and asks; a cron job is not asked.
    """
    for name, age_s in (("outbox", outbox_older_than), ("dlq", dlq_older_than)):
        if only not in (None, name) and age_s is not None:
            raise click.UsageError(f"--{name}-older-than does nothing with --only {only}: leave one of the two out.")
    settings = settings_from(flags, "outbox_retention_days", "dlq_retention_days")
    where = postgres_target(settings, STATEMENT_S)
    outbox_s = settings["outbox_retention_days"] * 86_400.0 if outbox_older_than is None else outbox_older_than
    dlq_s = settings["dlq_retention_days"] * 86_400.0 if dlq_older_than is None else dlq_older_than
    ages = {"outbox_s": None if only == "dlq" else outbox_s, "dlq_s": None if only == "outbox" else dlq_s}
    fields: dict[str, object] = {"dry_run": dry_run, "older_than_s": {"outbox": ages["outbox_s"], "dlq": ages["dlq_s"]}}
    asks = not dry_run and not yes and sys.stdin.isatty()
    if dry_run or asks:
        rows, copies, held = anyio.run(_count, where, ages)
        if asks or not as_json:
            say(_too_old(rows, copies, ages) + _left(held), err=as_json)
        if dry_run and as_json:
            click.echo(json.dumps(fields | {"settled_rows": rows, "dead_letter_copies": copies, "held_rows": held}))
        # No event loop runs while a person is asked, so that Ctrl-C ends it.
        if asks and rows + copies and not click.confirm("Delete them?", err=as_json):
            click.echo("Nothing was deleted.", err=as_json)
            return 1
    if not dry_run:
        run = anyio.run(_delete, where, ages)
        if as_json:
            counts = {"settled_rows": run.rows, "dead_letter_copies": run.copies, "held_rows": run.held}
            click.echo(json.dumps(fields | counts))
        else:
            say(f"Deleted {_deleted(run)}{_left(run.held)}.")
    return 0


def _left(held: int) -> str:
    if not held:
        return ""
    they = "it holds" if held == 1 else "they hold"
    left = counted(held, "dead row")
    return f"; {left} left, because {they} later events: see `dispatcher held list` and `dispatcher dlq list`"


async def _count(where: PostgresTarget, ages: dict[str, float | None]) -> tuple[int, int, int]:
    async with PruneSession(where, outbox_s=ages["outbox_s"], dlq_s=ages["dlq_s"]) as run:
        return await run.count()


def _too_old(rows: int, copies: int, ages: dict[str, float | None]) -> str:
    parts = ((rows, "settled row", ages["outbox_s"]), (copies, "dead-letter copy", ages["dlq_s"]))
    return "Too old: " + " and ".join(
        f"{counted(count, what)} (older than {duration(age_s)})" for count, what, age_s in parts if age_s is not None
    )


async def _delete(where: PostgresTarget, ages: dict[str, float | None]) -> PruneSession:
    async with PruneSession(where, outbox_s=ages["outbox_s"], dlq_s=ages["dlq_s"]) as run:
        try:
            with _progress(run) as progress:
                await run.run(progress)
        except BaseException:
            click.echo(f"Stopped: {_deleted(run)} so far. The same command goes on.", err=True)
            raise
    return run


def _deleted(run: PruneSession) -> str:
    return f"{counted(run.rows, 'settled row')} and {counted(run.copies, 'dead-letter copy')}"


@contextmanager
def _progress(run: PruneSession) -> Iterator[Callable[[float], None]]:
    """Yields a function that takes the share of the outbox that is done, 0 to 1."""
    if sys.stderr.isatty():
        with click.progressbar(length=1000, label="Pruning", file=sys.stderr) as bar:
            yield lambda share: bar.update(round(share * 1000) - bar.pos)
        return
    said = 0

    def line(share: float) -> None:
        nonlocal said
        if int(share * 10) > said:
            said = int(share * 10)
            click.echo(f"{share:.0%} of the outbox walked, {counted(run.rows, 'row')} deleted", err=True)

    yield line
