"""Finds dead events. Postgres writes their JSON, so that a thousand of them cost the dispatcher's event loop nothing.

An event is dead when its outbox row says so or, once that row is pruned, when it has a copy in the dead-letter queue
that was not replayed. So an UPDATE of the row is a replay, and a row that was marked dead by hand needs no copy.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.identity import EventRef

PAGE = 1000  # the most events of one page
MAX_BYTES = 8 * 1024 * 1024  # of one answer
GROUPS = 100  # the most groups of one kind in Stats


class TooLarge(DispatcherError):
    """The answer would be larger than `max_bytes`: a payload that was too large to be sent may be."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead events; None limits nothing. `last_error`: the whole text; empty: those without one."""

    event_type: str | None = None
    aggregate_type: str | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of events, those inserted last first. `events`: the text of a JSON array of `count` objects."""

    count: int
    events: str


@dataclass(frozen=True, slots=True)
class Stats:
    """How many events are dead, and the largest groups, of at most GROUPS each."""

    total: int
    by_error: list[dict[str, Any]]  # last_error, count
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
    [(count, events)] = await fetch(
        load("dead_list"),
        asdict(which)
        | {"limit": limit, "offset": offset, "before_id": before, "payload": payload, "at_most": max_bytes},
    )
    if events is None:
        raise TooLarge(f"{count} events are more than {max_bytes} bytes: ask for fewer at once, or without payload")
    return Page(count, f"[{events}]")


async def find_one(fetch: Fetch, event: EventRef, *, payload: bool = False, max_bytes: int = MAX_BYTES) -> str | None:
    """The text of a JSON object; None: no dead event has that id. Raises TooLarge."""
    names = {"id": event, "event_id": None} if isinstance(event, int) else {"id": None, "event_id": event}
    rows = await fetch(load("dead_show"), names | {"payload": payload, "at_most": max_bytes})
    if not rows:
        return None
    [(found,)] = rows
    if found is None:
        raise TooLarge(f"event {event} is more than {max_bytes} bytes: read its payload in Postgres")
    return str(found)


async def count(fetch: Fetch, which: Filter) -> Stats:
    """Count the dead events that match, all in all and by group."""
    [(total, by_error, by_type)] = await fetch(load("dead_stats"), asdict(which) | {"groups": GROUPS})
    return Stats(total, json.loads(by_error), json.loads(by_type))
