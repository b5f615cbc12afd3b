"""Ends the wait of held aggregates: tries the event that holds one now, or lets the others go out without it.

An event is named, not an aggregate: whoever repeats a skip must not skip the next event of the aggregate too.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.decide import Decision, decide, ring_all
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.held.find import PAGE, find_held, read_order


@dataclass(frozen=True, slots=True)
class HeldDecision:
    """What a person decided of events that hold their aggregates. `skip` needs a reason. For their history."""

    what: Literal["retry", "skip"]
    by: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class HeldDecided:
    """What became of the events asked for: ids of rows that were retried or skipped; the others, as they were named."""

    ids: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)  # being published, or their handlers run: ask again
    not_held: list[EventRef] = field(default_factory=list)  # unknown, went out, were skipped before, or hold nothing


async def decide_held(fetch: Fetch, events: Sequence[EventRef], decision: HeldDecision) -> HeldDecided:
    """Retry or skip those that hold their aggregate, and wake the dispatchers. Raises psycopg.Error."""
    order = await read_order(fetch)
    if not order.on:
        return HeldDecided(not_held=list(dict.fromkeys(events)))
    parameters: dict[str, object] = {
        "by": decision.by,
        "reason": decision.reason,
        "ids": [event for event in events if isinstance(event, int)],
        "event_ids": [event for event in events if isinstance(event, UUID)],
        "now": None,
    }
    if decision.what == "skip":
        found = await fetch(load("held_skip"), parameters | {"hold": order.hold})
    else:
        found = await fetch(load("held_retry"), parameters | {"heads": True})
    done = HeldDecided(
        [row for row, _, ended in found if ended], [row for row, _, ended in found if not ended], _left(events, found)
    )
    if decision.what == "retry" and order.hold and done.not_held:
        again = await decide(fetch, done.not_held, Decision("retry", decision.by, decision.reason))
        done.ids += again.ids
        done.not_held = list(again.not_dead)
    if done.ids:
        await ring_all(fetch)
    return done


class BulkHeldDecision:
    """Decides on any number in batches. What is in `done` is complete up to the last batch, also after an error."""

    def __init__(self, fetch: Fetch, decision: HeldDecision, *, batch: int = 1000, page: int = PAGE) -> None:
        self._fetch = fetch
        self._decision = decision
        self._batch = batch
        self._page = page
        self.done = HeldDecided()

    async def named(self, events: Sequence[EventRef], progress: Callable[[int, int], None]) -> None:
        """Decide on these. `progress` gets (events handled, events in all) after each of several batches."""
        for start in range(0, len(events), self._batch):
            batch = await decide_held(self._fetch, events[start : start + self._batch], self._decision)
            self.done.ids += batch.ids
            self.done.in_flight += batch.in_flight
            self.done.not_held += batch.not_held
            if len(events) > self._batch:
                progress(min(start + self._batch, len(events)), len(events))

    async def matching(self, which: Filter) -> list[EventRef]:
        """The heads of all held aggregates that match: found before the first is decided."""
        heads: list[EventRef] = []
        after = 0
        while True:
            page = (await find_held(self._fetch, which, limit=self._page, after=after)).read()
            heads += [each["id"] for each in page]
            if len(page) < self._page:
                return heads
            after = page[-1]["id"]


def as_text(requested: int, done: HeldDecided) -> str:
    """One JSON object, as the API answers."""
    not_held = [event if isinstance(event, int) else str(event) for event in done.not_held]
    counts = {"requested": requested, "processed": len(done.ids)}
    return json.dumps({**counts, "in_flight": done.in_flight, "not_held": not_held})


def _left(events: Sequence[EventRef], found: Sequence[tuple[int, UUID, bool]]) -> list[EventRef]:
    named: set[EventRef] = {name for row, event_id, _ in found for name in (row, event_id)}
    return [event for event in dict.fromkeys(events) if event not in named]
