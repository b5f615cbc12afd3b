"""Puts dead events back to be published again: from their outbox rows, or from their copies when the rows are gone.

An event goes back once, however many ask at the same time: each statement locks rows and copies before it checks that
they are dead. A second call changes nothing, so a call whose answer was lost may be repeated.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg

from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import PAGE, Filter, find_page
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.session import OperatorSession


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of the events asked for. `ids`: rows that are pending again, in the order they go out."""

    ids: tuple[int, ...]
    not_dead: tuple[EventRef, ...]  # unknown, replayed already, or never dead; in the order asked for
    forbidden: bool  # some of `not_dead` may have a copy, but this role may not insert it into the outbox


class DeadLetterSession(OperatorSession):
    """The session of `dispatcher dlq`; the console has a session of its own."""

    verb = "see to dead letters"
    too_slow = "narrow it down with --event-type or --aggregate-type"


class BulkRetry:
    """Retries any number of events in batches. The counts are complete up to the last batch, also after an error."""

    def __init__(self, fetch: Fetch, *, batch: int = 1000, page: int = PAGE) -> None:
        self._fetch = fetch
        self._batch = batch
        self._page = page
        self.done = 0
        self.not_dead: list[EventRef] = []
        self.forbidden = False  # see Retried

    async def named(self, events: Sequence[EventRef], progress: Callable[[int, int], None]) -> None:
        """Retry these. `progress` gets (events handled, events in all) after each of several batches."""
        for start in range(0, len(events), self._batch):
            batch = await retry(self._fetch, events[start : start + self._batch])
            self.done += len(batch.ids)
            self.not_dead += batch.not_dead
            self.forbidden = self.forbidden or batch.forbidden
            if len(events) > self._batch:
                progress(min(start + self._batch, len(events)), len(events))

    async def matching(self, which: Filter) -> list[EventRef]:
        """All dead events that match, in the order they were inserted: found before the first is retried."""
        events: list[EventRef] = []
        before: int | None = None
        while True:
            page = json.loads((await find_page(self._fetch, which, limit=self._page, before=before)).events)
            events += [event["id"] for event in page]
            if len(page) < self._page:
                return events[::-1]
            before = page[-1]["id"]


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
