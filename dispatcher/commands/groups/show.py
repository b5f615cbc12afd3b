"""`dispatcher groups` without a command behind it: the table of the consumer groups."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import anyio
import click

from dispatcher.commands.options import LAYOUT, layout_of, postgres_target, settings_from
from dispatcher.commands.tables import plain, show_table, span
from dispatcher.core.counted import counted
from dispatcher.core.errors import DispatcherError, Unreachable
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.groups import GroupsQuestion, GroupState, StreamGroups, read_groups
from dispatcher.ops.layout import standing_layout
from dispatcher.ops.pause import read_conditions

STATEMENT_S = 10.0


def show_groups(as_json: bool, flags: dict[str, str | None]) -> None:
    """Print the groups of each stream. Raises DispatcherError."""
    more = ("redis_url", "handlers", "unrouted", *LAYOUT, "stream_maxlen", "backpressure_except")
    settings = settings_from(flags, *more)
    streams, problem, note = anyio.run(_ask, settings, postgres_target(settings, STATEMENT_S))
    if note:
        click.echo(note, err=True)
    if as_json:
        click.echo(json.dumps({"streams": [asdict(each) for each in streams], "problem": problem}))
    else:
        for each in streams:
            _show(each)
        for line in _more(streams):
            click.echo(line)
        if not streams:
            click.echo("No event goes to a stream (DISPATCH_UNROUTED=dead).")
    if problem is not None:
        raise Unreachable(problem)


async def _ask(settings: dict[str, Any], where: PostgresTarget) -> tuple[list[StreamGroups], str | None, str]:
    note, said = "", None
    try:
        said = next((each for each in await read_conditions(where) if each.stream == settings["stream_name"]), None)
    except DispatcherError as error:
        note = f"MAXLEN and the exempt groups are those of this environment: {error}"
    asked = GroupsQuestion(
        settings.get("redis_url", ""),
        (await standing_layout(where, layout_of(settings))).keys,
        said.maxlen if said else settings["stream_maxlen"],
        said.exempt if said else settings["backpressure_except"],
        where.connect_timeout_s,
    )
    return *(await read_groups(asked)), note


def _show(stream: StreamGroups) -> None:
    maxlen = f", MAXLEN {stream.maxlen}" if stream.maxlen else ""
    click.echo(f"{stream.stream}: {counted(stream.length, 'entry')}{maxlen}")
    if not stream.groups:
        click.echo("No consumer group. What a reader without one misses, MAXLEN trims unseen.")
        return
    rows = [
        [
            each.name,
            each.lag,
            _share(each, stream.maxlen),
            each.pending,
            each.dead,
            each.consumers,
            _read(each),
            each.verdict(stream.maxlen),
        ]
        for each in stream.groups
    ]
    head = ("group", "lag", "of MAXLEN", "pending", "dead", "consumers", "last read", "note")
    show_table(head, rows, right=head[1:-1])


def _more(streams: Sequence[StreamGroups]) -> Iterator[str]:
    """Who read last of groups that something is wrong with, and which keys a group is not on: each group once."""
    said = set[str]()
    for stream in streams:
        for each in stream.groups:
            if each.reader and each.last_read_age_s is not None and each.verdict(stream.maxlen):
                said.add(f"{each.name} was read last by its consumer {each.reader}, {span(each.last_read_age_s)} ago.")
            if each.not_on:
                said.add(f"{each.name} is not on {', '.join(each.not_on)}: nobody reads those for it.")
    yield from map(plain, sorted(said))


def _share(group: GroupState, maxlen: int | None) -> str:
    return f"{group.lag / maxlen:.1%}" if maxlen else "-"


def _read(group: GroupState) -> str:
    return "never" if group.last_read_age_s is None else f"{span(group.last_read_age_s)} ago"
