"""Finds events whatever became of them: in lists by status, by any of their names, one with its history.

A page is bounded by what is looked at, not only by what is found: a page may be short, or empty, and still have a next
one. Postgres writes the JSON, so that a thousand events cost the dispatcher's event loop nothing.
"""

import base64
import json
import re
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import psycopg

from dispatcher.core.errors import Misconfigured
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import MAX_BYTES, Filter, TooLarge, find_page
from dispatcher.ops.dead_letters.identity import EventRef, parse

UNSETTLED = ("pending", "scheduled", "picked", "retry")
STATUSES = (*UNSETTLED, "dead", "sent")
WINDOW = 50_000  # rows that one page looks at: about a tenth of a second
COUNTED = 100_000  # rows that are counted, and dead events
# Of an event in a list, in this order; `show` has more.
FIELDS = (
    "id", "event_id", "message_id", "event_type", "aggregate_type", "aggregate_id", "status", "attempts", "due_at",
    "occurred_at", "picked_at", "picked_by", "sent_at", "stream_id", "last_error", "in_outbox",
)  # fmt: skip


class WrongQuestion(Misconfigured):
    """What was asked cannot be answered: a filter that does not fit, or an `after` of another list."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None limits nothing. `status`: one of STATUSES, None: all that are not settled."""

    status: str | None = None
    event_type: str | None = None
    aggregate_type: str | None = None
    aggregate_id: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    error_like: str | None = None

    @property
    def by_error(self) -> bool:
        return any(each is not None for each in (self.last_error, self.error_code, self.error_like))


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
    fetch: Fetch, which: EventFilter, *, limit: int, after: str | None = None, window: int = WINDOW
) -> EventPage:
    """A page: those due first, or, of dead and sent ones, those inserted last. Raises WrongQuestion."""
    if which.status == "dead":
        return await _dead(fetch, which, limit, after)
    if which.status == "sent":
        if which.by_error:
            raise WrongQuestion("an event that was sent has no error: leave the error out, or ask for another status")
        return await _walk(fetch, which, limit, after, window)
    time, row_id = (None, None) if after is None else _key(after, 2)
    parameters = {"after_time": time, "after_id": row_id, "window": window, "limit": limit, "now": None}
    try:
        [(events, key)] = await fetch(load("event_due"), asdict(which) | parameters)
    except psycopg.errors.InvalidDatetimeFormat:
        raise _no_key() from None
    return EventPage(events, None if key is None else _opaque(*key.rsplit(" ", 1)))


async def find(fetch: Fetch, text: str, *, limit: int, after: str | None = None, window: int = WINDOW) -> EventPage:
    """Events that have this name: the number of the row, event_id, message_id or aggregate_id.

    The first page has those that an index finds, and what is left as a copy only; all pages walk the table from the
    newest row down, because nothing else finds a message_id or an aggregate_id.
    """
    exact = _ref(text)
    parameters: dict[str, object] = {
        "message_id": exact if isinstance(exact, UUID) else None,
        "any_id": text,
        "before_id": None if after is None else _key(after, 1)[0],
        "window": window,
        "limit": limit,
    }
    [(found, before)] = await fetch(load("event_walk"), asdict(EventFilter()) | parameters | {"now": None})
    if after is not None:
        return EventPage(found, None if before is None else _opaque(before))
    first = []
    if exact is not None and (one := await show(fetch, exact)) is not None:
        first = [{name: value for name, value in json.loads(one).items() if name in FIELDS}]
    [(copies,)] = await fetch(load("event_copies"), _names(text, exact) | {"limit": limit})
    everything = [*first, *json.loads(found), *json.loads(copies)]
    events = {each["id"]: each for each in everything[::-1]}  # each once
    kept = list(events.values())[::-1]
    return EventPage(json.dumps(kept), None if before is None else _opaque(before))


async def show(fetch: Fetch, event: EventRef, *, payload: bool = False, max_bytes: int = MAX_BYTES) -> str | None:
    """The text of a JSON object, with the event's history; None: there is no event of that id. Raises TooLarge."""
    names = {"id": event, "event_id": None} if isinstance(event, int) else {"id": None, "event_id": event}
    try:
        rows = await fetch(load("event_show"), names | {"payload": payload, "at_most": max_bytes, "now": None})
    except psycopg.errors.ProgramLimitExceeded:  # as text it is more than a gigabyte
        rows = [(None,)]
    if not rows:
        return None
    [(found,)] = rows
    if found is None:
        raise TooLarge(f"event {event} is more than {max_bytes} bytes: read its payload in Postgres")
    return str(found)


async def count_events(fetch: Fetch) -> EventCounts:
    [(pending, scheduled, picked, retry, complete)] = await fetch(load("event_counts"), {"bound": COUNTED, "now": None})
    [(dead, _)] = await fetch(load("count_dead"), {"bound": COUNTED})
    return EventCounts(pending, scheduled, picked, retry, dead, complete and dead < COUNTED)


async def _dead(fetch: Fetch, which: EventFilter, limit: int, after: str | None) -> EventPage:
    if which.aggregate_id is not None:
        raise WrongQuestion("dead events cannot be listed by aggregate: find the aggregate among all events")
    chosen = Filter(which.event_type, which.aggregate_type, which.last_error, which.error_code, which.error_like)
    page = await find_page(fetch, chosen, limit=limit, before=None if after is None else int(_key(after, 1)[0]))
    events = [{name: each.get(name) for name in FIELDS} for each in json.loads(page.events)]
    return EventPage(json.dumps(events), _opaque(events[-1]["id"]) if len(events) == limit else None)


async def _walk(fetch: Fetch, which: EventFilter, limit: int, after: str | None, window: int) -> EventPage:
    before = None if after is None else _key(after, 1)[0]
    parameters = {"before_id": before, "window": window, "limit": limit, "message_id": None, "any_id": None}
    [(events, key)] = await fetch(load("event_walk"), asdict(which) | parameters | {"now": None})
    return EventPage(events, None if key is None else _opaque(key))


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


def _opaque(*parts: object) -> str:
    return base64.urlsafe_b64encode(" ".join(map(str, parts)).encode()).decode().rstrip("=")


def _key(after: str, parts: int) -> tuple[Any, ...]:
    """What `_opaque` was made of: an id, or a time and an id."""
    try:
        text = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)).decode("ascii")
    except ValueError:
        raise _no_key() from None
    found = re.fullmatch(r"([0-9a-z :.+-]{1,40}) ([0-9]{1,18})" if parts == 2 else r"([0-9]{1,18})", text)
    if found is None:
        raise _no_key()
    return tuple(int(each) if each.isdigit() else each for each in found.groups())


def _no_key() -> WrongQuestion:
    return WrongQuestion("`after` is not one that a page of this list gave as `next`")
