"""`dispatcher layout`: shows which streams events go to, and changes it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import anyio
import click

from dispatcher.commands.options import (
    LAYOUT,
    database,
    json_output,
    layout_of,
    postgres_target,
    redis_url,
    require_terminal,
    settings_from,
    yes,
)
from dispatcher.commands.tables import say
from dispatcher.core.counted import counted
from dispatcher.core.layout import Layout
from dispatcher.core.timestamps import iso
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.layout import LayoutChange, LayoutState, StreamKeyState, read_keys, read_layout_state

STATEMENT_S = 60.0
SETTINGS = ("redis_url", "handlers", "unrouted", *LAYOUT)


@click.group(invoke_without_command=True)
@database
@redis_url
@json_output
@click.pass_context
def layout(context: click.Context, /, as_json: bool, **flags: str | None) -> int:
    """Show which streams events go to: by the settings here, and as it stands in Postgres.

    Dispatchers whose settings are of another layout than the one in Postgres claim nothing and are not ready; they go
    on by themselves once the two agree. Keys that events went to before are named, with what is not read there.

    Exit code 1 when the settings here are of another layout.
    """
    if context.invoked_subcommand is not None:
        return 0
    settings = settings_from(flags, *SETTINGS)
    ours = layout_of(settings)
    state, keys = anyio.run(_read, postgres_target(settings, STATEMENT_S), settings.get("redis_url", ""), ours)
    if as_json:
        click.echo(as_text(ours, state, keys))
    else:
        for line in lines(ours, state, keys):
            say(line)
    return 0 if state.is_of(ours) else 1


@layout.command("set")
@click.option("--stream-name", metavar="KEY", help="The default stream.  [DISPATCH_STREAM_NAME]")
@click.option("--stream-shards", metavar="N", help="Keys of each stream.  [DISPATCH_STREAM_SHARDS]")
@click.option("--routes", metavar="PATTERN=STREAM,...", help="Which events go elsewhere.  [DISPATCH_ROUTES]")
@click.option("--order", metavar="none|aggregate", help="What is kept in order.  [DISPATCH_ORDER]")
@click.option(
    "--order-on-dead", metavar="continue|hold", help="What later events do when one is dead.  [DISPATCH_ORDER_ON_DEAD]"
)
@click.option(
    "--timeout",
    type=click.FloatRange(1, 86_400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the dispatchers.",
)
@yes
@database
@redis_url
@json_output
def set_layout(timeout: float, yes: bool, as_json: bool, **flags: str | None) -> int:
    """Make the layout of these settings the one that stands in Postgres.

    Pauses all dispatchers, waits until nothing is in hand, sets the layout, resumes. From then on only dispatchers with
    these settings claim: restart the others with them, before or after. Nothing is lost and nothing doubled. Entries
    stay in the keys that they were added to; those keys are named, for consumers to read them to their end.

    Exit code 1 when a dispatcher did not acknowledge in time, or rows stayed claimed: the layout is as it was.
    """
    settings = settings_from(flags, *SETTINGS)
    wanted = layout_of(settings)
    where, redis = postgres_target(settings, STATEMENT_S), settings.get("redis_url", "")
    state, keys = anyio.run(_read, where, redis, wanted)
    if state.is_of(wanted):
        click.echo(as_text(wanted, state, keys) if as_json else f"It stands already: {wanted}.")
        return 0
    if not yes:
        require_terminal(dry_run=False)
        click.confirm(
            f"Events go to {state.layout or 'one stream'} now. Pause, and let them go to {wanted}?",
            abort=True,
            err=True,
        )
    state, keys = anyio.run(_change, where, redis, wanted, timeout)
    if as_json:
        click.echo(as_text(wanted, state, keys))
    else:
        say(f"Set: {wanted}.")
        for line in _former(state, keys):
            say(line)
        say("Dispatchers with other settings claim nothing from now on: restart them with these.")
    return 0


async def _read(where: PostgresTarget, url: str, ours: Layout) -> tuple[LayoutState, list[StreamKeyState]]:
    state = await read_layout_state(where)
    # Of a plain layout Postgres does not keep the name of the stream.
    now = state.layout or ours
    # No Redis is used with DISPATCH_UNROUTED=dead.
    return state, await read_keys(url, list(dict.fromkeys([*now.keys, *state.former]))) if url else []


async def _change(
    where: PostgresTarget, url: str, wanted: Layout, timeout: float
) -> tuple[LayoutState, list[StreamKeyState]]:
    state, keys = await _read(where, url, wanted)
    there = [each.key for each in keys if each.info is not None] if url else state.former
    async with LayoutChange(where) as change:
        await change.set(wanted, [key for key in there if key not in wanted.keys], timeout)
    return await _read(where, url, wanted)


def as_text(ours: Layout, state: LayoutState, keys: Sequence[StreamKeyState]) -> str:
    """What --json prints: one JSON object, times in RFC 3339."""
    known = {
        each.key: None if each.info is None else {"length": each.info.length, "groups": _groups(each)} for each in keys
    }
    answer = {
        "agrees": state.is_of(ours),
        "settings": ours.spec(),
        "stands": state.layout.spec() if state.layout else None,
        "generation": state.generation,
        "changed_at": state.changed_at,
        "changed_by": state.changed_by,
        "keys": {key: about for key, about in known.items() if key not in state.former},
        "former": {key: about for key, about in known.items() if key in state.former and about is not None},
    }
    return json.dumps(answer, default=iso)


def _groups(key: StreamKeyState) -> list[dict[str, object]]:
    return [asdict(group) for group in key.info.groups] if key.info else []


def lines(ours: Layout, state: LayoutState, keys: Sequence[StreamKeyState]) -> Iterator[str]:
    """What stands, whether the settings agree, one line a stream and one a former key."""
    if state.layout is None:
        yield "stands: none was set; events go to the one stream of each dispatcher's settings"
    else:
        at = iso(state.changed_at, "seconds") if state.changed_at else "?"
        yield f"stands: {state.layout} (set at {at} by {state.changed_by})"
    agrees = "the same"
    if not state.is_of(ours):
        agrees = "differ: a dispatcher with them claims nothing (dispatcher layout set)"
        if ours.plain and state.runs:  # a shell without the variables of the dispatchers: nothing is to be set
            agrees = "none of its own in this environment; dispatchers that run have the layout that stands"
    yield f"settings: {ours}: {agrees}"
    now, infos = state.layout or ours, {each.key: each for each in keys}
    for stream in now.streams if keys else ():
        of = [infos[key] for key in now.keys_of(stream) if key in infos]
        entries = sum(each.info.length for each in of if each.info)
        yield f"stream {stream}: {counted(len(of), 'key')}, {counted(entries, 'entry')}"
    yield from _former(state, keys)


def _former(state: LayoutState, keys: Sequence[StreamKeyState]) -> Iterator[str]:
    for each in keys:
        if each.key not in state.former or each.info is None:
            continue
        groups = "; ".join(
            f"group {group.name}: {group.lag} to read, {group.pending} not acknowledged" for group in each.info.groups
        )
        end = "read it to the end" if each.unread else f"nothing is left to read: DEL {each.key} when you like"
        yield f"former key {each.key}: {counted(each.info.length, 'entry')}; {groups or 'no group'}; {end}"
