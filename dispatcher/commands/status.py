"""`dispatcher status`: shows the outbox, the running dispatchers, the stream and its groups."""

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from time import monotonic

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.commands.options import (
    LAYOUT,
    database,
    layout_of,
    postgres_target,
    redis_url,
    settings_from,
    stream_name,
)
from dispatcher.commands.tables import ago, plain, say, show_facts, span
from dispatcher.core.counted import counted
from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.core.findings.runbook import address
from dispatcher.core.layout import Layout
from dispatcher.core.timestamps import iso, iso_of
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.info import GroupInfo, StreamInfo, summed
from dispatcher.ops.attention import COUNTED, Attention, findings
from dispatcher.ops.layout import standing_layout
from dispatcher.ops.status import STATUSES, OutboxStatus, Status, read_status

COLOURS = {"bad": "red", "warn": "yellow"}
FEW = 3  # of more streams those with nothing to tell are one line
REST = 5  # counting reads the whole outbox: after t seconds of it, wait at least 5 t


@click.command()
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(0.1, 3600),
    metavar="[SECONDS]",
    help="Repeat every 2 s, or every so many seconds, until Ctrl-C.",
)
@database
@redis_url
@stream_name
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on one line, each time.")
def status(watch: float | None, as_json: bool, **flags: str | None) -> None:
    """Show what needs somebody, then the outbox, the running dispatchers, the stream and its consumer groups. Exit
    code 0 does not mean that all is well: a script uses `dispatcher doctor`, or looks whether `attention` of --json is
    empty.

    What a dispatcher waits for is what it says itself, not what this environment says. Each line says what is wrong,
    since when, and what to do.

    Counting reads the whole outbox; --watch waits at least five times as long as the last count took.

    Exit code 1 when a server cannot be reached (the other one is shown), 2 when something is set up wrongly.
    """
    settings = settings_from(flags, "redis_url", "handlers", "unrouted", *LAYOUT, "query_timeout_ms")
    where = postgres_target(settings, settings["query_timeout_ms"] / 1000)
    ask = partial(_ask, where, settings.get("redis_url", ""), layout_of(settings))
    if watch is not None:
        with suppress(KeyboardInterrupt):  # the way to end it
            anyio.run(_watch, ask, watch, as_json)
        return
    found = anyio.run(ask)
    if found.outbox is not None or found.stream is not None:
        click.echo(as_text(found)) if as_json else show(found, Console())
    if found.problems:
        raise (Misconfigured if found.misconfigured else Unreachable)("; ".join(found.problems))


async def _ask(where: PostgresTarget, redis: str, ours: Layout) -> Status:
    """Of the streams that stand in Postgres, where these settings name no routes."""
    return await read_status(where, redis, await standing_layout(where, ours))


async def _watch(ask: Callable[[], Awaitable[Status]], every_s: float, as_json: bool) -> None:
    """Show the status until interrupted. A server that cannot be reached is shown as such, and asked again."""
    console = Console()
    while True:
        began = monotonic()
        found = await ask()
        if console.is_terminal and not as_json:
            console.clear()
        click.echo(as_text(found)) if as_json else show(found, console)
        if not as_json:
            click.echo(f"at {iso(datetime.now(UTC), 'seconds')}; Ctrl-C ends")
        await anyio.sleep(max(every_s, REST * (monotonic() - began)))


def as_text(found: Status) -> str:
    """One JSON object; the part of a server that cannot be reached is null. Times are RFC 3339."""
    stream = None if found.stream is None else _stream(found.layout.stream, found.stream)
    several = {}
    if not found.layout.plain and found.streams is not None:
        several = {"streams": [_stream(key, info) for key, info in found.streams.items()]}
    outbox = None if found.outbox is None else asdict(found.outbox)
    if outbox is not None:
        outbox["now"] = iso_of(outbox["now"])
        newest = outbox["newest_dead_at"]
        outbox["newest_dead_at"] = None if newest is None else iso_of(newest)
        if retrying := outbox["retrying"]:
            retrying |= {name: iso_of(at) for name in ("next_at", "since") if (at := retrying[name]) is not None}
        if (holder := outbox["snapshot"]) is not None and holder["since"] is not None:
            holder["since"] = iso_of(holder["since"])
        if outbox["last_seen"] is not None:
            host, at = outbox["last_seen"]
            outbox["last_seen"] = {"host": host, "at": iso_of(at)}
        del outbox["known_groups"]  # each note has them
        if outbox["dead_groups"] is not None:
            outbox["dead_groups"]["since"] = iso_of(outbox["dead_groups"]["since"])
        for each in outbox["acknowledgements"]:
            said_at = each["said_at"]
            each["said_at"] = None if said_at is None else iso(datetime.fromisoformat(said_at))
            for group in each["condition"]["groups"]:
                group["seen"] = iso_of(group["seen"])
                group["gone"] = None if group["gone"] is None else iso_of(group["gone"])
            for gone in each["condition"]["ended"]:
                gone["at"] = iso_of(gone["at"])
            if (past := each["condition"]["past"]) is not None:
                past |= {name: iso_of(past[name]) for name in ("since", "until")}
        outbox["words"] = outbox["acknowledgements"]  # its older name, for scripts that read it
    said = findings(found)
    needs, notes = (
        [asdict(each) | {"runbook": address(each.page)} for each in said if (each.level == "note") is quiet]
        for quiet in (False, True)
    )
    parts = {
        "attention": needs,
        "notes": notes,
        "outbox": outbox,
        "stream": stream,
        **several,
        "problems": found.problems,
    }
    return json.dumps(parts, default=iso)


def _stream(name: str, info: StreamInfo) -> dict[str, object]:
    found = asdict(info)
    for times, field in (
        (found, "read_to"),
        (found, "oldest"),
        *((each["put_away"], "at") for each in found["groups"]),
    ):
        if times is not None and times[field] is not None:
            times[field] = iso_of(times[field])
    return {"name": name, **found}


def facts(found: Status) -> list[tuple[str, str]]:
    """The lines to show, as (name, value), of the servers that answered."""
    lines: list[tuple[str, str]] = []
    if (outbox := found.outbox) is not None:
        lines.append(("outbox", outbox.address))
        lines += [("copy", outbox.copy)] if outbox.copy else []
        if outbox.rows is None:
            lines.append(("rows", "not counted: it took longer than DISPATCH_QUERY_TIMEOUT_MS"))
        else:
            lines += [(name, str(outbox.rows[name])) for name in STATUSES]
            if outbox.dead != outbox.rows["dead"] and outbox.dead <= COUNTED:
                lines.append(("dead events", f"{outbox.dead}, with those of which only copies are left"))
        if outbox.held is not None:
            age = f", the first for {span(outbox.held.oldest_s)}" if outbox.held.aggregates else ""
            lines.append(("held aggregates", f"{outbox.held.aggregates}{age}"))
        lines.append(("oldest overdue", f"{outbox.overdue_s:.1f} s"))
        lines.append(("notification queue", f"{outbox.notification_queue_usage:.1%} full"))
        lines.append(("doorbell trigger", outbox.doorbell))
        lines.append(("paused", _paused(outbox)))
        if outbox.layout != found.layout.fingerprint:
            lines.append(("layout", "other streams stand in Postgres than in these settings: see `dispatcher layout`"))
        lines += [
            (f"lost by {loss.stream}", f"{counted(loss.rows, 'row')} put back at {iso(loss.at, 'seconds')}: {loss.why}")
            for loss in outbox.losses
        ]
        polling = [each for each in outbox.acknowledgements if not each.registered]
        lines.append(("dispatchers alive", str(len(outbox.dispatchers) + len(polling))))
        lines += [
            (f"dispatcher {each.id}", f"{each.name}, version {each.version}{_slots(outbox, each.id)}")
            for each in outbox.dispatchers
        ]
        lines += [("dispatcher -", f"{each.name}, version {each.version}, without a listener") for each in polling]
    return [*lines, *_streams(found)]


def _streams(found: Status) -> Iterator[tuple[str, str]]:
    """Of each stream its entries and its groups; the shards of one are added up."""
    if found.streams is None:
        return
    quiet: list[StreamInfo] = []
    unread: list[StreamInfo] = []
    for name in found.layout.streams:
        keys = found.layout.keys_of(name)
        known = [found.streams[key] for key in keys if key in found.streams]
        if not known:
            continue
        stream = summed(known)
        if (
            len(found.layout.streams) > FEW
            and len(known) == len(keys)
            and not any(g.lag or g.pending for g in stream.groups)
        ):
            (quiet if stream.groups or not stream.length else unread).append(stream)
            continue
        shards = f"{len(keys)} shards" if len(known) == len(keys) else f"{len(known)} of {len(keys)} shards"
        yield "stream", name if len(keys) == 1 else f"{name}, {shards}"
        yield "entries", str(stream.length)
        for group in stream.groups:
            without = [info for info in known if all(each.name != group.name for each in info.groups)]
            left = f"{counted(sum(info.length for info in without), 'entry')} of the others not read by it"
            on = f", on {len(known) - len(without)} of {len(known)} shards, {left}" if without else ""
            yield (
                f"group {group.name}",
                _group(group) + on,
            )
    for name, streams, rest in (
        ("streams without a group", unread, "read by nobody"),
        ("quiet streams", quiet, "of which no group has anything to read or to acknowledge"),
    ):
        if streams:
            entries = counted(sum(stream.length for stream in streams), "entry")
            yield name, f"{len(streams)} with {entries}, {rest}"


def _slots(outbox: OutboxStatus, dispatcher: int) -> str:
    return "" if outbox.slots is None else f", owns {outbox.slots.get(dispatcher, 0)} of 256 slots"


def _paused(outbox: OutboxStatus) -> str:
    if not outbox.pause.paused:
        return "no"
    obey = sum(each.obeys(outbox.pause) for each in outbox.acknowledgements)
    return f"{outbox.pause}; {obey} of {counted(len(outbox.acknowledgements), 'dispatcher')} acknowledged"


def _group(group: GroupInfo) -> str:
    read = "never read" if group.last_read_age_s is None else f"last read {span(group.last_read_age_s)} ago"
    dead = f", {group.dead} put away" if group.dead else ""
    return f"{group.lag} to read, {group.pending} unacknowledged{dead}, consumers {group.consumers}, {read}"


def _since(need: Attention, found: Status) -> str:
    """Of dead events when the first and the latest died: there may be long between them."""
    if need.kind != "dead":
        return f"since {_at(need.since)}"
    groups = found.outbox.dead_groups if found.outbox else None
    first = f"since {_at(iso_of(groups.since))}, " if groups else ""
    return f"{first}the latest died at {_at(need.since)}"


def _at(moment: str | None) -> str:
    """Without fractions of a second, as the console has it."""
    whole = (moment or "").partition(".")[0].removesuffix("Z")
    return f"{whole}Z ({ago(moment)})"


def show(found: Status, console: Console) -> None:
    """First what needs somebody; then a table on a terminal, aligned lines elsewhere."""
    said = findings(found)
    if all(each.level == "note" for each in said):
        click.echo("Nothing needs anybody.")
    for each in said:
        since = f"; {_since(each, found)}" if each.since and each.kind not in ("over", "ended") else ""
        line = f"{each.level}: {plain(each.what)}{since}"
        say(line, colour=COLOURS.get(each.level))
        say(each.do, indent="    ")
        page = f" Runbook: {address(each.page)}" if each.page else ""
        say(f"Needs somebody: {each.needs_somebody}.{page}", indent="    ")
    lines = facts(found)
    if not console.is_terminal:
        show_facts(lines)
        return
    table = Table(show_header=False)
    for name, value in lines:
        if name == "stream" and found.outbox is not None:
            table.add_section()
        table.add_row(Text(name), Text(value))  # a group's name is no markup
    console.print(table)
