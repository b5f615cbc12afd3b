"""Ends dead events: puts them back to be published again, from their rows or their copies, or discards them.
Tries those that failed and are tried again now, where that is asked for.

An event goes back, or is discarded, once, however many ask at the same time: each statement locks rows and copies
before it checks that they are dead. A second call changes nothing, so a call whose answer was lost may be repeated.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar
from uuid import UUID

import psycopg

from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import PAGE, Filter, find_page
from dispatcher.ops.dead_letters.identity import EventRef


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided of events: that they go out again, that nobody needs them, or that the later ones of their
    aggregates go out without them (`skip`, of those that hold one). The last two need a reason. For their history.

    `tried`: a retry is also of events in status retry, which are then due now, with the attempts that they have left.
    """

    what: Literal["retry", "discard", "skip"]
    by: str | None = None
    reason: str | None = None
    tried: bool = False

    def of(self, events: Sequence[EventRef]) -> dict[str, object]:
        """The parameters of a statement that decides on these."""
        return {
            "by": self.by,
            "reason": self.reason,
            "ids": [event for event in events if isinstance(event, int)],
            "event_ids": [event for event in events if isinstance(event, UUID)],
            "now": None,
        }


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of the events asked for. `ids`: of their rows; those that go out again, in the order they do."""

    ids: tuple[int, ...] = ()
    not_dead: tuple[EventRef, ...] = ()  # unknown, retried or discarded already, or never dead; in the order asked for
    tried: tuple[int, ...] = ()  # rows that were in status retry, and are tried now
    forbidden: bool = False  # some of `not_dead` may have a copy, but this role may not insert it into the outbox

    def __add__(self, other: Self) -> "Decided":
        tried, forbidden = self.tried + other.tried, self.forbidden or other.forbidden
        return Decided(self.ids + other.ids, self.not_dead + other.not_dead, tried, forbidden)


class Adds(Protocol):
    """What became of some events; of more of them, with `+`."""

    def __add__(self, other: Self, /) -> Self: ...


D = TypeVar("D", bound=Adds)


class Bulk(Generic[D]):
    """Decides on any number of events in batches. `done` is complete up to the last batch, also after an error."""

    def __init__(self, decide: Callable[[Sequence[EventRef]], Awaitable[D]], nothing: D, *, batch: int = 1000) -> None:
        self._decide = decide
        self._batch = batch
        self.done = nothing

    async def run(self, events: Sequence[EventRef], progress: Callable[[int, int], None]) -> None:
        """Decide on these. `progress` gets (events handled, events in all) after each of several batches."""
        for start in range(0, len(events), self._batch):
            self.done += await self._decide(events[start : start + self._batch])
            if len(events) > self._batch:
                progress(min(start + self._batch, len(events)), len(events))


async def find_dead(fetch: Fetch, which: Filter, *, page: int = PAGE) -> list[EventRef]:
    """All dead events that match, in the order they were inserted: found before the first is decided."""
    events: list[EventRef] = []
    before: int | None = None
    while True:
        found = json.loads((await find_page(fetch, which, limit=page, before=before)).events)
        events += [event["id"] for event in found]
        if len(found) < page:
            return events[::-1]
        before = found[-1]["id"]


async def decide(fetch: Fetch, events: Sequence[EventRef], decision: Decision) -> Decided:
    """Put back or discard those that are dead. Raises psycopg.Error or what `fetch` raises."""
    statement = "dead_retry" if decision.what == "retry" else "dead_discard"
    done: list[tuple[int, UUID]] = await fetch(load(statement), decision.of(events))
    tried: list[tuple[int, UUID]] = []
    if decision.tried and (left := not_among(events, done)):
        found = await fetch(load("held_retry"), decision.of(left) | {"heads": False})
        tried = [(row, event_id) for row, event_id, due in found if due]
    forbidden = False
    if decision.what == "retry" and (left := not_among(events, [*done, *tried])):
        try:
            done += await fetch(load("dead_retry_copy"), decision.of(left))
        except psycopg.errors.InsufficientPrivilege:
            forbidden = True
    if done or tried:
        await ring_all(fetch)
    rows = [tuple(sorted(row for row, _ in each)) for each in (done, tried)]
    return Decided(rows[0], tuple(not_among(events, [*done, *tried])), rows[1], forbidden)


async def ring_all(fetch: Fetch) -> None:
    """Wake the dispatchers: what one knows from its memory has changed. Without it they see that on their tick."""
    await fetch(load("ring_all"), None)


def not_among(events: Sequence[EventRef], ended: Iterable[tuple[int, UUID]]) -> list[EventRef]:
    """Those of the events that are not named by these rows and event ids, each once."""
    done: set[EventRef] = {name for names in ended for name in names}
    return [event for event in dict.fromkeys(events) if event not in done]
