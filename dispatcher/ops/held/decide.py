"""Ends the wait of held aggregates: tries the event that holds one now, or lets the others go out without it.

An event is named, not an aggregate: whoever repeats a skip must not skip the next event of the aggregate too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.decide import Decision, decide, not_among, ring_all
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.held.find import PAGE, find_held, read_order


@dataclass(frozen=True, slots=True)
class HeldDecided:
    """What became of the events asked for: ids of rows that were retried or skipped; the others, as they were named."""

    ids: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)  # being published, or their handlers run: ask again
    not_held: list[EventRef] = field(default_factory=list)  # unknown, went out, were skipped before, or hold nothing

    def __add__(self, other: Self) -> "HeldDecided":
        return HeldDecided(self.ids + other.ids, self.in_flight + other.in_flight, self.not_held + other.not_held)


async def decide_held(fetch: Fetch, events: Sequence[EventRef], decision: Decision) -> HeldDecided:
    """Retry or skip those that hold their aggregate, and wake the dispatchers. Raises psycopg.Error."""
    order = await read_order(fetch)
    if not order.on:
        return HeldDecided(not_held=list(dict.fromkeys(events)))
    if decision.what == "skip":
        found = await fetch(load("held_skip"), decision.of(events) | {"hold": order.hold})
    else:
        found = await fetch(load("held_retry"), decision.of(events) | {"heads": True})
    ids = [row for row, _, ended in found if ended]
    left = not_among(events, ((row, event_id) for row, event_id, _ in found))
    if decision.what == "retry" and order.hold and left:
        again = await decide(fetch, left, decision)
        ids += again.ids
        left = list(again.not_dead)
    if ids:
        await ring_all(fetch)
    return HeldDecided(ids, [row for row, _, ended in found if not ended], left)


async def find_heads(fetch: Fetch, which: Filter, *, page: int = PAGE) -> list[EventRef]:
    """The heads of all held aggregates that match: found before the first is decided."""
    heads: list[EventRef] = []
    after = 0
    while True:
        found = (await find_held(fetch, which, limit=page, after=after)).read()
        heads += [each["id"] for each in found]
        if len(found) < page:
            return heads
        after = found[-1]["id"]


def as_text(requested: int, done: HeldDecided) -> str:
    """One JSON object, as the API answers."""
    not_held = [event if isinstance(event, int) else str(event) for event in done.not_held]
    counts = {"requested": requested, "processed": len(done.ids)}
    return json.dumps({**counts, "in_flight": done.in_flight, "not_held": not_held})
