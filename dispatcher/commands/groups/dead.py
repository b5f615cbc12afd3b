"""`groups dead`, `retry` and `discard`: what the consumers of a group have put away."""

import json
from collections.abc import Sequence
from typing import Any

import anyio
import click

from dispatcher.commands.groups.options import EntryId, dead_of, dead_stream, of_group, server_options, servers_of
from dispatcher.commands.options import options_together, require_terminal, yes
from dispatcher.commands.tables import ago, plain, show_facts, show_table
from dispatcher.core.counted import counted
from dispatcher.core.timestamps import iso
from dispatcher.ops.dead_entries import DeadEntry, Left
from dispatcher.ops.replay import ReplaySession

NAMED = 10  # entries named in a message
PAGE = 500

chosen = options_together(
    of_group,
    click.argument("entries", type=EntryId(), nargs=-1),
    click.option("--all", "everything", is_flag=True, help="Every entry of the dead stream."),
    click.option("--dry-run", is_flag=True, help="Only count them."),
    yes,
    dead_stream,
    server_options,
)


@click.command(name="dead")
@of_group
@click.argument("entry", type=EntryId(), required=False)
@click.option("--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="The most entries to list.")
@click.option("--before", type=EntryId(), metavar="ENTRY", help="Only those before this entry: the next page.")
@click.option("--payload", is_flag=True, help="With payload and headers; of one entry, or with --json.")
@dead_stream
@server_options
def list_entries(
    group: str,
    entry: str | None,
    limit: int,
    before: str | None,
    payload: bool,
    dead_stream: str,
    as_json: bool,
    **flags: str | None,
) -> None:
    """List what the consumers of a group have put away, the newest first; or show one entry.

    A consumer puts an event away that failed too often, or an entry that is no event: the function of this group
    failed, and other groups may have handled it. An event that could not be published is dead in Postgres:
    `dispatcher dlq`.
    """
    if payload and not as_json and entry is None:
        raise click.UsageError("--payload is shown with --json, or for one entry: name it.")
    found = anyio.run(_list, group, entry, limit, before, dead_stream, flags)
    if as_json:
        click.echo(json.dumps({"entries": [_facts(each, payload) for each in found], "limit": limit}))
    elif entry is not None:
        for each in found:
            show_facts(list(_facts(each, payload).items()))
    elif not found:
        click.echo(f"No entry is in the dead stream of {group}.")
    else:
        show_table(("id", "event type", "aggregate", "deliveries", "put away", "reason"), list(map(_row, found)))
        if len(found) == limit:
            click.echo(f"There may be more: --before {found[-1].id}", err=True)


@click.command(name="retry")
@chosen
def retry_entries(**choice: Any) -> int:
    """Publish events again that the consumers of a group have put away: those named, or all.

    Each is published with the event_id that it had, to all groups: those that handled it drop it by that id, as they
    should. Then its entry is removed. First mend the cause. It works while the row is kept (OUTBOX_RETENTION_DAYS): an
    entry whose row is gone stays, for it may be the last copy of its event.

    Exit code 1 when an entry stays.
    """
    return _decide("retry", **choice)


@click.command(name="discard")
@chosen
def discard_entries(**choice: Any) -> int:
    """Delete what the consumers of a group have put away: those named, or all.

    It is gone with its payload, and nothing tells of it afterwards. The event's row is left alone.
    """
    return _decide("discard", **choice)


def _decide(
    what: str,
    group: str,
    entries: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    dead_stream: str,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Count, ask, decide; the exit code. Who names entries to publish again is not asked."""
    if bool(entries) == everything:
        raise click.UsageError("Choose the entries in one way: by ids, or with --all.")
    ask = not yes and not dry_run and (everything or what == "discard")
    if ask:
        require_terminal()
    total = anyio.run(_count, group, entries, dead_stream, flags)
    if everything and (not as_json or ask):
        click.echo(f"Entries in the dead stream of {group}: {total}", err=as_json)
    done, left = 0, list[Left]()
    if total and not dry_run:
        question = "Publish them again, to all groups?" if what == "retry" else "Delete them, with their payload?"
        if ask and not click.confirm(question, err=as_json):  # no event loop runs: Ctrl-C ends it
            click.echo(f"Nothing was {'retried' if what == 'retry' else 'discarded'}.", err=as_json)
            return 1
        done, left = anyio.run(_carry_out, what, group, entries, dead_stream, flags)
    if as_json:
        click.echo(json.dumps({"requested": total, "processed": done, "left": [each._asdict() for each in left]}))
    elif not dry_run:
        click.echo(f"{'Retried' if what == 'retry' else 'Discarded'} {counted(done, 'entry')}.")
        for each in left[:NAMED]:
            click.echo(f"Entry {each.id} stays, event {plain(each.event_id)}: {each.why}", err=True)
        if len(left) > NAMED:
            click.echo(f"So do {counted(len(left) - NAMED, 'other entry')}.", err=True)
    return 1 if left else 0


async def _list(
    group: str, entry: str | None, limit: int, before: str | None, dead_stream: str, flags: dict[str, str | None]
) -> list[DeadEntry]:
    async with dead_of(await servers_of(flags), group, dead_stream) as dead:
        return await dead.newest(limit, before) if entry is None else await dead.named([entry])


async def _count(group: str, entries: Sequence[str], dead_stream: str, flags: dict[str, str | None]) -> int:
    async with dead_of(await servers_of(flags), group, dead_stream) as dead:
        return len(await dead.named(entries)) if entries else await dead.count()


async def _carry_out(
    what: str, group: str, entries: Sequence[str], dead_stream: str, flags: dict[str, str | None]
) -> tuple[int, list[Left]]:
    at = await servers_of(flags)
    done, left = 0, list[Left]()
    async with dead_of(at, group, dead_stream) as dead:
        if what == "discard":
            async for batch in dead.batches(entries):
                done += await dead.remove(batch)
            return done, left
        async with ReplaySession(at.postgres) as replay:
            async for batch in dead.batches(entries):
                published, stay = await dead.publish_again(replay, batch)
                done += published
                left += stay
    return done, left


def _facts(entry: DeadEntry, payload: bool) -> dict[str, str | None]:
    put_away = entry.put_away_at
    own = {"id": entry.id, "dead_stream": entry.stream, "put_away_at": iso(put_away) if put_away else None}
    return own | entry.shown(payload=payload)


def _row(entry: DeadEntry) -> list[object]:
    names = ("event_type", "aggregate_id", "dead_deliveries")
    when = iso(entry.put_away_at) if entry.put_away_at else None
    return [entry.id, *(entry.fields.get(name) for name in names), ago(when), entry.fields.get("dead_reason")]
