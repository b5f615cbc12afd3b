"""Ends dead events: puts them back to be published again, from their rows or their copies, or discards them.
Tries those that failed and are tried again now, where that is asked for.

An event goes back, or is discarded, once, however many ask at the same time: each statement locks rows and copies
before it checks that they are dead. A second call changes nothing, so a call whose answer was lost may be repeated.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import psycopg

from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import PAGE, Filter, find_page
from dispatcher.ops.dead_letters.identity import EventRef


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided of dead events: that they go out again, or that nobody needs them. For their history.

    `tried`: a retry is also of events in status retry, which are then due now, with the attempts that they have left.
    """

    what: Literal["retry", "discard"]
    by: str | None = None
    reason: str | None = None
    tried: bool = False


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of the events asked for. `ids`: of their rows; those that go out again, in the order they do."""

    ids: tuple[int, ...]
    not_dead: tuple[EventRef, ...]  # unknown, retried or discarded already, or never dead; in the order asked for
    tried: tuple[int, ...]  # rows that were in status retry, and are tried now
    forbidden: bool  # some of `not_dead` may have a copy, but this role may not insert it into the outbox


class BulkDecision:
    """Decides on any number of events in batches. The counts are complete up to the last batch, also after an error."""

    def __init__(self, fetch: Fetch, decision: Decision, *, batch: int = 1000, page: int = PAGE) -> None:
        self._fetch = fetch
        self._decision = decision
        self._batch = batch
        self._page = page
        self.done = 0
        self.tried: list[int] = []  # of these; see Decided
        self.not_dead: list[EventRef] = []
        self.forbidden = False  # see Decided

    async def named(self, events: Sequence[EventRef], progress: Callable[[int, int], None]) -> None:
        """Decide on these. `progress` gets (events handled, events in all) after each of several batches."""
        for start in range(0, len(events), self._batch):
            batch = await decide(self._fetch, events[start : start + self._batch], self._decision)
            self.done += len(batch.ids) + len(batch.tried)
            self.tried += batch.tried
            self.not_dead += batch.not_dead
            self.forbidden = self.forbidden or batch.forbidden
            if len(events) > self._batch:
                progress(min(start + self._batch, len(events)), len(events))

    async def matching(self, which: Filter) -> list[EventRef]:
        """All dead events that match, in the order they were inserted: found before the first is decided."""
        events: list[EventRef] = []
        before: int | None = None
        while True:
            page = json.loads((await find_page(self._fetch, which, limit=self._page, before=before)).events)
            events += [event["id"] for event in page]
            if len(page) < self._page:
                return events[::-1]
            before = page[-1]["id"]


async def decide(fetch: Fetch, events: Sequence[EventRef], decision: Decision) -> Decided:
    """Put back or discard those that are dead. Raises psycopg.Error or what `fetch` raises."""
    statement = "dead_retry" if decision.what == "retry" else "dead_discard"
    done: list[tuple[int, UUID]] = await fetch(load(statement), _named(events, decision))
    tried: list[tuple[int, UUID]] = []
    if decision.tried and (left := _without(events, done)):
        found = await fetch(load("held_retry"), _named(left, decision) | {"heads": False})
        tried = [(row, event_id) for row, event_id, due in found if due]
    forbidden = False
    if decision.what == "retry" and (left := _without(events, [*done, *tried])):
        try:
            done += await fetch(load("dead_retry_copy"), _named(left, decision))
        except psycopg.errors.InsufficientPrivilege:
            forbidden = True
    if done or tried:
        await ring_all(fetch)
    rows = [tuple(sorted(row for row, _ in each)) for each in (done, tried)]
    return Decided(rows[0], tuple(_without(events, [*done, *tried])), rows[1], forbidden)


async def ring_all(fetch: Fetch) -> None:
    """Wake the dispatchers: what one knows from its memory has changed. Without it they see that on their tick."""
    await fetch(load("ring_all"), None)


def _named(events: Sequence[EventRef], decision: Decision) -> dict[str, object]:
    return {
        "by": decision.by,
        "reason": decision.reason,
        "ids": [event for event in events if isinstance(event, int)],
        "event_ids": [event for event in events if isinstance(event, UUID)],
        "now": None,
    }


def _without(events: Sequence[EventRef], ended: Sequence[tuple[int, UUID]]) -> list[EventRef]:
    done: set[EventRef] = {name for names in ended for name in names}
    return [event for event in dict.fromkeys(events) if event not in done]
