"""`dispatcher replay`: publishes rows again that were sent already."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
import click

from dispatcher.commands.duration import seconds_of
from dispatcher.commands.progress import rows_progress
from dispatcher.infra.postgres.session import PostgresTarget
from dispatcher.ops.replay import Found, Moment, ReplaySession, Selection
from dispatcher.settings import Settings

PATIENCE_S = 600.0  # for finding the rows: without a time range the whole table is read


class Time(click.ParamType[Moment]):
    """ISO 8601, or how long ago."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Moment:
        """A point in time, UTC where it says no offset, or a duration."""
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
@click.option("--dry-run", is_flag=True, help="Only say how many rows match, and when they were sent.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--database-url", metavar="URL", help="The Postgres that holds the outbox.  [DATABASE_URL]")
@click.option("--dsn", metavar="DSN", help="Dispatchbox's name for --database-url.")
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
    """Publish rows again that are sent already, when something after the stream lost them.

    Rows that match every option given go back to 'pending', and a running dispatcher publishes them, each with the
    event_id it had: consumers that remember event_id, as they should, drop those they know. New events wait behind what
    is replayed. A row that is being changed at that moment is skipped and counted. Dead rows are not touched.

    \b
    dispatcher replay --since 2h --dry-run
    dispatcher replay --since 2025-06-01T12:00:00Z --until 2025-06-01T12:30:00Z --event-type order.created

    Times are when a row was sent, by Postgres's clock; one without an offset is UTC.
    """
    selection = Selection(since, until, event_types, aggregate_types, aggregate_ids, event_ids)
    if not selection.bounded and not everything:
        raise click.UsageError("Say which rows (--since 2h, --event-type ...), or --all for every sent row.")
    if selection.bounded and everything:
        raise click.UsageError("--all takes every sent row: leave it out, or the other options.")
    if not dry_run and not yes and not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on: give --yes, or --dry-run to look first.")
    settings = Settings.load_some(("database_url", "connect_timeout_ms"), os.environ, flags)
    target = PostgresTarget(
        settings["database_url"],
        "dispatcher",
        connect_timeout_s=settings["connect_timeout_ms"] / 1000,
        query_timeout_s=PATIENCE_S,
    )
    found = anyio.run(_find, target, selection)
    if not as_json or not (yes or dry_run):
        click.echo(_summary(found), err=as_json)
    if found.ids and not dry_run and not yes and not click.confirm("Publish them again?", err=as_json):
        click.echo("Nothing was replayed.", err=as_json)  # asked with no event loop running, so that Ctrl-C ends it
        return 1
    run = None if dry_run or not found.ids else anyio.run(_put_back, target, found)
    if as_json:
        click.echo(_as_text(found, run, dry_run=dry_run))
    elif run is not None:
        click.echo(f"Replayed {run.replayed} rows.")
        if run.skipped:
            click.echo(f"Skipped {run.skipped} rows: somebody held them, replayed them or deleted them meanwhile.")
    return 0


async def _find(target: PostgresTarget, selection: Selection) -> Found:
    async with ReplaySession(target) as run:
        return await run.find(selection)


async def _put_back(target: PostgresTarget, found: Found) -> ReplaySession:
    async with ReplaySession(target) as run:
        try:
            with rows_progress("Replaying", len(found.ids)) as progress:
                await run.put_back(found, progress)
        except BaseException:
            click.echo(
                f"Stopped after {run.replayed} of {len(found.ids)} rows. To go on: the same options, and "
                f"--until {_iso(found.at)}, which leaves out what has been sent again since.",
                err=True,
            )
            raise
    return run


def _as_text(found: Found, run: ReplaySession | None, *, dry_run: bool) -> str:
    """One JSON object."""
    sent = {"oldest": found.oldest and _iso(found.oldest), "newest": found.newest and _iso(found.newest)}
    done = {"replayed": run.replayed if run else 0, "skipped": run.skipped if run else 0}
    return json.dumps({"dry_run": dry_run, "matched": len(found.ids), **sent, **done})


def _summary(found: Found) -> str:
    if not found.ids:
        return "No sent row matches."
    when = f", sent from {_iso(found.oldest)} to {_iso(found.newest)}" if found.oldest and found.newest else ""
    return f"Sent rows that match: {len(found.ids)}{when}"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
