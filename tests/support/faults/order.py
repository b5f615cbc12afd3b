"""The order within aggregates, as a consumer of the stream sees it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg


class Place(NamedTuple):
    """Where an event belongs: its stream and aggregate, and its number there."""

    stream: str | None
    aggregate_type: str | None
    aggregate_id: str
    number: int


@dataclass(slots=True)
class Disorder:
    """What was found.

    `overtaken`: events whose first delivery came after that of a later one; `rewinds`: how many entries are of events
    that had been delivered before.
    """

    overtaken: list[str] = field(default_factory=list)
    rewinds: int = 0


async def read_places(db: psycopg.AsyncConnection[Any]) -> dict[str, Place]:
    """By event_id: the number that the producer gave an event, else its id."""
    cursor = await db.execute(
        "SELECT event_id::text, stream, aggregate_type, aggregate_id, "
        "coalesce(CASE WHEN pg_column_size(payload) < 1000 THEN (payload ->> 'n')::bigint END, id) "
        "FROM messaging.message_outbox"
    )
    return {event: Place(*place) for event, *place in await cursor.fetchall()}


def find_disorder(delivered: Iterable[str], places: Mapping[str, Place]) -> Disorder:
    """Walk the entries. First deliveries of an aggregate must rise in each stream; what has no row is passed over."""
    found, seen = Disorder(), set[str]()
    newest: dict[tuple[str | None, str | None, str], int] = {}
    for event in delivered:
        place = places.get(event)
        if place is None:
            continue
        if event in seen:
            found.rewinds += 1
            continue
        seen.add(event)
        aggregate = place[:3]
        if place.number < newest.get(aggregate, place.number):
            found.overtaken.append(event)
        else:
            newest[aggregate] = place.number
    return found
