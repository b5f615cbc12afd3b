"""Finds dead events. Their JSON is written by Postgres: a thousand of them cost the dispatcher's loop nothing.

Whether an event is dead is said by its outbox row while there is one, and by its open copy in the dead-letter queue
after that: so a plain UPDATE of the row is a replay, and a row that was marked dead by hand is found without a copy.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.identity import EventRef

PAGE = 1000  # events, at most
AT_MOST = 8 * 1024 * 1024  # bytes of one answer
GROUPS = 100


class TooLarge(DispatcherError):
    """What was asked for is more than AT_MOST bytes, as a payload may be that was too large to be sent."""


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
    fetch: Fetch, which: Filter, *, limit: int, offset: int = 0, before: int | None = None, payload: bool = False
) -> Page:
    """At most `limit` events after the first `offset`, with a row's id below `before`. Raises TooLarge."""
    [(count, events)] = await fetch(
        load("dead_list"),
        asdict(which) | {"limit": limit, "offset": offset, "before_id": before, "payload": payload, "at_most": AT_MOST},
    )
    if events is None:
        raise TooLarge(f"these {count} events are more than {AT_MOST} bytes: ask for fewer at once, or without payload")
    return Page(count, f"[{events}]")


async def find_one(fetch: Fetch, event: EventRef, *, payload: bool = False) -> str | None:
    """The text of a JSON object; None: no dead event has that id. Raises TooLarge."""
    number = event if isinstance(event, int) else None
    rows = await fetch(
        load("dead_show"),
        {
            "id": number,
            "event_id": event if number is None else None,
            "payload": payload,
            "at_most": AT_MOST,
        },
    )
    if not rows:
        return None
    [(found,)] = rows
    if found is None:
        raise TooLarge(f"event {event} is more than {AT_MOST} bytes: read its payload in Postgres")
    return str(found)


async def count(fetch: Fetch, which: Filter) -> Stats:
    """Count those that match."""
    [(total, by_error, by_type)] = await fetch(load("dead_stats"), asdict(which) | {"groups": GROUPS})
    return Stats(total, json.loads(by_error), json.loads(by_type))
