"""The dead-letter API: Dispatchbox's paths, parameters, bodies and codes.

Each request is one statement on a session of its own: a slow one holds up other requests, never the relay.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from aiohttp import web

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.core.events import DeadRetried, Observer
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.find import PAGE, Filter, TooLarge, count, find_one, find_page
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.dead_letters.retry import Retried, retry
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.params import BODY_S, event_in_path, events_in_body, parameters, switch, whole

LIMIT = 100
FURTHEST = 1_000_000_000
EVENT = r"{event_id:(?!(?:stats|retry-batch)$)[^{}/]+}"  # or those would answer to the methods of an event
FILTERS = ("aggregate_type", "event_type", "last_error")
FORBIDDEN = "this role may not insert into messaging.message_outbox, which copies need: run sql/roles.sql again"


class DeadLetters:
    """`retried` is called after events were put back, so that they go out at once. `body_s`: for a body to arrive."""

    def __init__(self, fetch: Fetch, observe: Observer, retried: Callable[[], None], *, body_s: float = BODY_S) -> None:
        self._body_s = body_s
        self._fetch = fetch
        self._observe = observe
        self._retried = retried

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/api/dead-events", self._list),
            web.get("/api/dead-events/stats", self._stats),
            web.post("/api/dead-events/retry-batch", self._retry_batch),
            web.get(f"/api/dead-events/{EVENT}", self._show),
            web.post(f"/api/dead-events/{EVENT}/retry", self._retry),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        query = parameters(request, "limit", "offset", "payload", *FILTERS)
        limit, offset = whole(query, "limit", LIMIT, 1, PAGE), whole(query, "offset", 0, 0, FURTHEST)
        with _explained():
            page = await find_page(
                self._fetch, _filter(query), limit=limit, offset=offset, payload=switch(query, "payload")
            )
        rest = f'"count": {page.count}, "limit": {limit}, "offset": {offset}'
        return _json(f'{{"events": {page.events}, {rest}}}')

    async def _stats(self, request: web.Request) -> web.Response:
        query = parameters(request, *FILTERS)
        which = _filter(query)
        with _explained():
            found = await count(self._fetch, which)
        answer = {
            "total": found.total,
            "aggregate_type": which.aggregate_type,
            "event_type": which.event_type,
            "by_error": found.by_error,
            "by_type": found.by_type,
        }
        return _json(json.dumps(answer))

    async def _show(self, request: web.Request) -> web.Response:
        event = event_in_path(request)
        query = parameters(request, "payload")
        with _explained():
            found = await find_one(self._fetch, event, payload=switch(query, "payload"))
        if found is None:
            raise Refusal(404, f"no dead event has the id {event}")
        return _json(found)

    async def _retry(self, request: web.Request) -> web.Response:
        event = event_in_path(request)
        parameters(request)
        done = await self._put_back(request, [event])
        if not done.ids:
            if done.forbidden:
                raise Refusal(503, FORBIDDEN)
            raise Refusal(404, f"no dead event has the id {event}; one that was retried before is not dead any more")
        row = done.ids[0]
        return _json(json.dumps({"status": "success", "message": f"event {event} goes out again", "event_id": row}))

    async def _retry_batch(self, request: web.Request) -> web.Response:
        parameters(request)
        events = await events_in_body(request, self._body_s)
        done = await self._put_back(request, events)
        if done.forbidden and not done.ids:
            raise Refusal(503, FORBIDDEN)
        message = f"{len(done.ids)} of {len(set(events))} events go out again"
        if done.forbidden:
            message += f"; of the others some may be dead still: {FORBIDDEN}"
        elif done.not_dead:
            message += "; the others are not dead (any more)"
        answer = {
            "status": "success",
            "message": message,
            "requested": len(events),
            "processed": len(done.ids),
            "not_dead": [event if isinstance(event, int) else str(event) for event in done.not_dead],
        }
        return _json(json.dumps(answer))

    async def _put_back(self, request: web.Request, events: Sequence[EventRef]) -> Retried:
        with _explained(changes=True):
            done = await retry(self._fetch, events)
        if done.ids:
            self._observe(DeadRetried(done.ids, request.remote or "unknown"))
            self._retried()
        return done


def _filter(query: dict[str, str]) -> Filter:
    # A form sends what was left empty. An error that is empty is looked for: rows marked dead by hand have none.
    return Filter(query.get("event_type") or None, query.get("aggregate_type") or None, query.get("last_error"))


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


@contextmanager
def _explained(*, changes: bool = False) -> Iterator[None]:
    """Turn errors of Postgres into answers. `changes`: the request would have changed rows."""
    again = {"Retry-After": "1"}
    try:
        yield
    except TooLarge as error:
        raise Refusal(400, str(error)) from None
    except SessionLost:
        doubt = "; whether it was done is not known: ask again, nothing is done twice" if changes else ": ask again"
        raise Refusal(503, f"the connection to Postgres broke{doubt}", again) from None
    except DispatcherError as error:  # busy, unreachable, misconfigured
        raise Refusal(503, str(error), again) from None
    except psycopg.errors.QueryCanceled:
        raise Refusal(503, "Postgres took too long: narrow it down with event_type or aggregate_type", again) from None
    except psycopg.errors.InsufficientPrivilege:
        raise Refusal(503, "this role may not do that: grant it the role outbox_dispatcher (sql/roles.sql)") from None
    except psycopg.Error as error:
        raise Refusal(503, f"Postgres refused: {type(error).__name__} {error.sqlstate}", again) from None
