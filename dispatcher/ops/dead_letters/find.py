"""Finds dead events. Postgres writes their JSON, so that a thousand of them cost the dispatcher's event loop nothing.

An event is dead when its outbox row says so or, once that row is pruned, when it has a copy in the dead-letter queue
that was not replayed. So an UPDATE of the row is a replay, and a row that was marked dead by hand needs no copy.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dispatcher.core.counted import counted
from dispatcher.core.errors import DispatcherError
from dispatcher.core.process_state import DeadGroups
from dispatcher.infra.postgres.session import UNREADABLE, Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.identity import EventRef

PAGE = 1000  # the most events of one page
MAX_BYTES = 8 * 1024 * 1024  # of one answer
GROUPS = 100  # the most groups of one kind in Stats
GROUPED = 1000  # of more dead events the groups are not looked at with every count


# As dead_show.sql writes them; jsonb has no space before a colon.
_PAYLOAD, _HEADERS = (
    ', "payload" : ',
    ', "headers" : ',
)


class TooLarge(DispatcherError):
    """The answer would be larger than `max_bytes`: a payload that was too large to be sent may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which dead events; None limits nothing. `last_error`: the whole text; empty: those without one.

    `error_code`: the text with its figures as `#`, as Stats has it; `error_like`: contained in the text, in any case.
    """

    event_type: str | None = None
    aggregate_type: str | None = None
    aggregate_id: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    error_like: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of events, those inserted last first. `events`: the text of a JSON array of `count` objects."""

    count: int
    events: str


@dataclass(frozen=True, slots=True)
class Stats:
    """How many events are dead, and the largest groups, of at most GROUPS each."""

    total: int
    # Each with code, last_error (the newest), count, texts, figures, event_types, first_at, last_at.
    by_error: list[dict[str, Any]]
    by_type: list[dict[str, Any]]  # event_type, aggregate_type, count


async def find_page(
    fetch: Fetch,
    which: Filter,
    *,
    limit: int,
    offset: int = 0,
    before: int | None = None,
    payload: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Page:
    """At most `limit` events after the first `offset`, with a row's id below `before`. Raises TooLarge."""
    parameters = {"limit": limit, "offset": offset, "before_id": before, "payload": payload, "at_most": max_bytes}
    try:
        [(count, events)] = await fetch(load("dead_list"), asdict(which) | parameters)
    except UNREADABLE:
        count, events = limit, None
    if events is None:
        raise TooLarge(
            f"more than {max_bytes} bytes in {counted(count, 'event')}: ask for fewer at once, or without payload"
        )
    return Page(count, f"[{events}]")


async def find_one(fetch: Fetch, event: EventRef, *, payload: bool = False, max_bytes: int = MAX_BYTES) -> str | None:
    """The text of a JSON object; None: no dead event has that id. Raises TooLarge."""
    names = {"id": event, "event_id": None} if isinstance(event, int) else {"id": None, "event_id": event}
    try:
        rows = await fetch(load("dead_show"), names | {"payload": payload, "at_most": max_bytes})
    except UNREADABLE:
        rows = [(None,)]
    if not rows:
        return None
    [(found,)] = rows
    if found is None:
        raise TooLarge(
            f"event {event} is more than {max_bytes} bytes, or UTF-8 lacks its characters: read its payload in Postgres"
        )
    return str(found)


def parts_of(found: str) -> list[tuple[str, Any]]:
    """Names and values of what `find_one` found. Payload and headers stay JSON text: no number of theirs is rounded."""
    head, has_payload, rest = found.partition(_PAYLOAD)
    parts = list(json.loads(head + "}" if has_payload else head).items())
    if has_payload:
        payload, _, headers = rest.removesuffix("}").rpartition(_HEADERS)
        parts += [("payload", payload), ("headers", None if headers == "null" else headers)]
    return parts


async def read_groups(fetch: Fetch, dead: int) -> DeadGroups | None:
    """What all dead events died of. `dead`: how many there are; None: none, or more than GROUPED."""
    if not 0 < dead <= GROUPED:
        return None
    [(_, by_error, _)] = await fetch(load("dead_stats"), asdict(Filter()) | {"groups": GROUPED})
    groups = json.loads(by_error)
    if not groups:
        return None
    since = min(datetime.fromisoformat(each["first_at"]).timestamp() for each in groups)
    first = groups[0]
    greatest = int(first["figures"][0][1]) if first["figures"] else None
    return DeadGroups(since, len(groups), first["count"], first["last_error"], first["code"], greatest)


async def count(fetch: Fetch, which: Filter) -> Stats:
    """Count the dead events that match, all in all and by group."""
    [(total, by_error, by_type)] = await fetch(load("dead_stats"), asdict(which) | {"groups": GROUPS})
    return Stats(total, json.loads(by_error), json.loads(by_type))
