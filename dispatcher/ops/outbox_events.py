"""Finds events whatever became of them: in lists by status, by any of their names, one with its history.

A page is bounded by what is looked at, not only by what is found: a page may be short, or empty, and still have a next
one. Postgres writes the JSON, so that a thousand events cost the dispatcher's event loop nothing.
"""

import json
import re
from dataclasses import asdict, dataclass
from uuid import UUID

from dispatcher.core.errors import Misconfigured
from dispatcher.infra.postgres.session import UNREADABLE, Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import MAX_BYTES, Filter, TooLarge, find_page
from dispatcher.ops.dead_letters.identity import EventRef, parse

UNSETTLED = ("pending", "scheduled", "picked", "retry")
STATUSES = (*UNSETTLED, "dead", "discarded", "sent")
WINDOW = 50_000  # rows that one page looks at: about a tenth of a second
KEY = r"([0-9]{1,18})(?:_(-?[0-9]{1,18}))?"  # of a page: an id, and the time at which it is due
COUNTED = 100_000  # rows that are counted, and dead events
# Of an event in a list, in this order; of a discarded one also `discarded`; `show` has more.
FIELDS = (
    "id", "event_id", "message_id", "event_type", "aggregate_type", "aggregate_id", "status", "attempts", "due_at",
    "occurred_at", "picked_at", "picked_by", "sent_at", "stream_id", "last_error", "in_outbox",
)  # fmt: skip


class WrongQuestion(Misconfigured):
    """What was asked cannot be answered: a filter that does not fit, or an `after` of another list."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """`events`: the text of a JSON array. `next`: where the next page begins, an opaque text; None: there is none."""

    events: str
    next: str | None


@dataclass(frozen=True, slots=True)
class EventCounts:
    """How many events there are of each status that is not sent; not `complete`: there may be more of each."""

    pending: int
    scheduled: int
    picked: int
    retry: int
    dead: int
    complete: bool


async def list_events(
    fetch: Fetch, status: str | None, which: Filter, *, limit: int, after: str | None = None, window: int = WINDOW
) -> EventPage:
    """A page: those due first; of dead and sent ones those inserted last, of discarded ones those that died last.

    `status`: one of STATUSES; None: all that are not settled. Raises WrongQuestion.
    """
    row_id, us = _key(after)
    if status == "dead":
        return await _dead(fetch, which, limit, row_id)
    parameters: dict[str, object] = asdict(which) | {"status": status, "window": window, "limit": limit}
    if status == "sent":
        if any(each is not None for each in (which.last_error, which.error_code, which.error_like)):
            return EventPage("[]", None)  # one that was sent has no error
        parameters |= {"before_id": row_id, "message_id": None, "any_id": None, "now": None}
        [(events, before)] = await fetch(load("event_walk"), parameters)
        return EventPage(events, _text(before))
    if status == "discarded":
        parameters |= {"before_us": us, "before_id": row_id}
        [(events, key)] = await fetch(load("event_discarded"), parameters)
        return EventPage(events, key)
    parameters |= {"after_us": us, "after_id": row_id, "now": None}
    [(events, key)] = await fetch(load("event_due"), parameters)
    return EventPage(events, key)


async def find(fetch: Fetch, text: str, *, limit: int, after: str | None = None, window: int = WINDOW) -> EventPage:
    """Events that have this name: the number of the row, event_id, message_id, aggregate_id or type/aggregate_id.

    The first page has those that an index finds, and what is left as a copy only; all pages walk the table from the
    newest row down, because nothing else finds a message_id or an aggregate_id.
    """
    exact = _ref(text)
    parameters: dict[str, object] = {
        "status": None,
        "now": None,
        "message_id": exact if isinstance(exact, UUID) else None,
        "any_id": text,
        "before_id": _key(after)[0],
        "window": window,
        "limit": limit,
    }
    [(found, before)] = await fetch(load("event_walk"), asdict(Filter()) | parameters)
    if after is not None:
        return EventPage(found, _text(before))
    first = []
    if exact is not None and (one := await show(fetch, exact)) is not None:
        first = [{name: value for name, value in json.loads(one).items() if name in FIELDS}]
    [(copies,)] = await fetch(load("event_copies"), _names(text, exact) | {"limit": limit})
    everything = [*first, *json.loads(found), *json.loads(copies)]
    events = {each["id"]: each for each in everything[::-1]}  # each once
    kept = list(events.values())[::-1]
    return EventPage(json.dumps(kept), _text(before))


async def show(fetch: Fetch, event: EventRef, *, payload: bool = False) -> str | None:
    """The text of a JSON object, with the event's history; None: there is no event of that id. Raises TooLarge."""
    names = {"id": event, "event_id": None} if isinstance(event, int) else {"id": None, "event_id": event}
    try:
        rows = await fetch(load("event_show"), names | {"payload": payload, "at_most": MAX_BYTES, "now": None})
    except UNREADABLE:
        rows = [(None,)]
    if not rows:
        return None
    [(found,)] = rows
    if found is None:
        raise TooLarge(
            f"event {event} is more than {MAX_BYTES} bytes, or UTF-8 lacks its characters: read its payload in Postgres"
        )
    return str(found)


async def count_events(fetch: Fetch) -> EventCounts:
    [(pending, scheduled, picked, retry, complete)] = await fetch(load("event_counts"), {"bound": COUNTED, "now": None})
    [(dead, _)] = await fetch(load("count_dead"), {"bound": COUNTED})
    return EventCounts(pending, scheduled, picked, retry, dead, complete and dead < COUNTED)


async def _dead(fetch: Fetch, which: Filter, limit: int, before: int | None) -> EventPage:
    page = await find_page(fetch, which, limit=limit, before=before)
    events = [{name: each.get(name) for name in FIELDS} for each in json.loads(page.events)]
    return EventPage(json.dumps(events), _text(events[-1]["id"]) if len(events) == limit else None)


def _ref(text: str) -> EventRef | None:
    try:
        return parse(text)
    except ValueError:
        return None


def _names(text: str, exact: EventRef | None) -> dict[str, object]:
    uuid = exact if isinstance(exact, UUID) else None
    return {
        "id": exact if isinstance(exact, int) else None,
        "event_id": uuid,
        "message_id": uuid,
        "aggregate_id": text,
    }


def _text(row_id: int | None) -> str | None:
    return None if row_id is None else str(row_id)


def _key(after: str | None) -> tuple[int | None, int | None]:
    """The id and, of what is not settled, the time in microseconds; None: from the start."""
    if after is None:
        return None, None
    found = re.fullmatch(KEY, after)
    if found is None:
        raise WrongQuestion("`after` is not one that a page gave as `next`")
    return int(found[1]), int(found[2]) if found[2] else None
