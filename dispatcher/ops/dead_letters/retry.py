"""Puts dead events back to be published again: from their outbox rows, or from their copies when the rows are gone.

Each event goes back once however many ask at the same time: rows and copies are locked, then looked at. Doing it twice
does nothing, so a lost answer may be asked for again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg

from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.identity import EventRef

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of the events asked for. `ids`: rows that are pending again, in the order they go out."""

    ids: tuple[int, ...]
    not_dead: tuple[EventRef, ...]  # unknown, replayed already, or never dead; in the order asked for
    forbidden: bool  # some of `not_dead` may have a copy, but this role may not insert it into the outbox


async def retry(fetch: Fetch, events: Sequence[EventRef]) -> Retried:
    """Put back those that are dead. Raises psycopg.Error or what `fetch` raises."""
    back: list[tuple[int, UUID]] = await fetch(load("dead_retry"), _named(events))
    forbidden = False
    if left := _without(events, back):
        try:
            back += await fetch(load("dead_retry_copy"), _named(left))
        except psycopg.errors.InsufficientPrivilege:
            forbidden = True
    return Retried(tuple(sorted(row for row, _ in back)), tuple(_without(events, back)), forbidden)


def _named(events: Sequence[EventRef]) -> dict[str, object]:
    return {
        "ids": [event for event in events if isinstance(event, int)],
        "event_ids": [event for event in events if isinstance(event, UUID)],
        "now": None,
    }


def _without(events: Sequence[EventRef], back: Sequence[tuple[int, UUID]]) -> list[EventRef]:
    done: set[EventRef] = {name for names in back for name in names}
    return [event for event in dict.fromkeys(events) if event not in done]
