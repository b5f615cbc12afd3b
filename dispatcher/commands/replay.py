"""`dispatcher replay`: publishes rows again that were sent before."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
import click

from dispatcher.commands.duration import seconds_of
from dispatcher.commands.options import database, json_output, postgres_target, require_terminal, settings_from, yes
from dispatcher.commands.progress import rows_progress
from dispatcher.commands.tables import say
from dispatcher.core.counted import counted
from dispatcher.core.timestamps import iso
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.replay import MatchingRows, Moment, ReplaySession, Selection

STATEMENT_S = 600.0  # without a time range, finding the rows reads the whole table


class Time(click.ParamType[Moment]):
    """ISO 8601, or how long ago."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Moment:
        """Parse a duration before now, or ISO 8601; without an offset that is UTC, the same on every machine."""
        text = str(value).strip()
        if (ago := seconds_of(text)) is not None:
            return timedelta(seconds=ago)
        try:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"'{text}' is neither ISO 8601, such as 2025-06-01T12:00:00Z, nor how long ago, such as 2h", param
            )


@click.command()
@click.option(
    "--since", type=Time(), metavar="TIME", help="Sent at this time or later: ISO 8601 or how long ago, '2h'."
)
@click.option("--until", type=Time(), metavar="TIME", help="Sent before this time.  [default: now]")
@click.option("--event-type", "event_types", metavar="TYPE", multiple=True, help="Of this type (repeatable).")
@click.option("--aggregate-type", "aggregate_types", metavar="TYPE", multiple=True, help="Of this type (repeatable).")
@click.option("--aggregate-id", "aggregate_ids", metavar="ID", multiple=True, help="Of this aggregate (repeatable).")
@click.option(
    "--event-id", "event_ids", type=click.UUID, metavar="UUID", multiple=True, help="This event (repeatable)."
)
@click.option("--all", "everything", is_flag=True, help="Every sent row that is still there.")
@click.option("--dry-run", is_flag=True, help="Only show how many rows match, and when they were sent.")
@yes
@json_output
@database
def replay(
    since: Moment | None,
    until: Moment | None,
    event_types: tuple[str, ...],
    aggregate_types: tuple[str, ...],
    aggregate_ids: tuple[str, ...],
    event_ids: tuple[UUID, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Publish rows again that were sent before, for example because a consumer lost them.

    An event whose type has a handler is handled again: its mails go out again too. Choose with --event-type.

    Rows that match every given option go back to 'pending', and a running dispatcher publishes them, each with the
    event_id it had: consumers that remember event_id, as they should, drop those they know. New events go out beside
    the replayed ones. A row that somebody changes at that moment is skipped and counted. Dead rows stay dead.

    \b
    dispatcher replay --since 2h --dry-run
    dispatcher replay --since 2025-06-01T12:00:00Z --until 2025-06-01T12:30:00Z --event-type order.created

    Times are when a row was sent, by Postgres's clock; one without an offset is UTC.

    Exit code 1 when an event named by --event-id was not replayed (pruned, dead, unknown or skipped); each is named
    with the reason. One that is on its way already does not count.
    """
    selection = Selection(since, until, event_types, aggregate_types, aggregate_ids, event_ids)
    if not selection.bounded and not everything:
        raise click.UsageError("Choose the rows (--since 2h, --event-type ...), or --all for every sent row.")
    if selection.bounded and everything:
        raise click.UsageError("--all takes every sent row: leave it out, or the other options.")
    if not dry_run and not yes:
        require_terminal()
    where = postgres_target(settings_from(flags), STATEMENT_S)
    found = anyio.run(_find, where, selection)
    if not as_json or not (yes or dry_run):
        say(_summary(found), err=as_json)
    for each in found.unsent:
        say(f"Not replayed: {each.event_id}: {each.why}", err=True)
    if found.ids and not dry_run and not yes and not click.confirm("Publish them again?", err=as_json):
        click.echo("Nothing was replayed.", err=as_json)  # asked with no event loop running, so that Ctrl-C ends it
        return 1
    run = None if dry_run or not found.ids else anyio.run(_put_back, where, found)
    if as_json:
        click.echo(_as_text(found, run, dry_run=dry_run))
    elif run is not None:
        click.echo(f"Replayed {counted(run.replayed, 'row')}.")
        if run.skipped:
            say(f"Skipped {counted(run.skipped, 'row')}: somebody locked, replayed or deleted them meanwhile.")
    skipped = run is not None and run.skipped > 0 and bool(event_ids)
    return int(skipped or any(not each.coming for each in found.unsent))


async def _find(where: PostgresTarget, selection: Selection) -> MatchingRows:
    async with ReplaySession(where) as run:
        return await run.find(selection)


async def _put_back(where: PostgresTarget, found: MatchingRows) -> ReplaySession:
    async with ReplaySession(where) as run:
        try:
            with rows_progress("Replaying", len(found.ids)) as progress:
                await run.put_back(found, progress)
        except BaseException:
            click.echo(
                f"Stopped after {run.replayed:,} of {counted(len(found.ids), 'row')}. To go on: the same options, and "
                f"--until {iso(found.at)}, which leaves out what has been sent again since.",
                err=True,
            )
            raise
    return run


def _as_text(found: MatchingRows, run: ReplaySession | None, *, dry_run: bool) -> str:
    """What --json prints: one JSON object. `not_replayed` is in it only where something could not be."""
    sent = {"oldest": found.oldest and iso(found.oldest), "newest": found.newest and iso(found.newest)}
    done = {"replayed": run.replayed if run else 0, "skipped": run.skipped if run else 0}
    unsent = [{"event_id": str(each.event_id), "why": each.why, "coming": each.coming} for each in found.unsent]
    named = {"not_replayed": unsent} if unsent else {}
    return json.dumps({"dry_run": dry_run, "matched": len(found.ids), **sent, **done, **named})


def _summary(found: MatchingRows) -> str:
    if not found.ids:
        return "No sent row matches."
    when = f", sent from {iso(found.oldest)} to {iso(found.newest)}" if found.oldest and found.newest else ""
    return f"Sent rows that match: {len(found.ids)}{when}"
