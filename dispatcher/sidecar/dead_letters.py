"""The dead-letter API: Dispatchbox's paths, parameters, bodies and codes.

Each request is one statement on a session of its own: a slow one holds up other requests, never the relay.
"""

import json
from collections.abc import Callable, Sequence

from aiohttp import web

from dispatcher.core.counted import counted
from dispatcher.core.events import DeadDiscarded, DeadRetried, Observer
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.decide import Decided, Decision, decide
from dispatcher.ops.dead_letters.find import PAGE, Filter, count, find_one, find_page
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.sidecar.asking import What, decided_on, decisions, explained, json_answer, success
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.params import (
    event_in_path,
    parameters,
    switch,
    whole,
)

LIMIT = 100
FURTHEST = 1_000_000_000
EVENT = r"{event_id:(?!(?:stats|retry-batch|discard-batch)$)[^{}/]+}"  # those are no events
FILTERS = ("aggregate_type", "aggregate_id", "event_type", "last_error", "error_code", "error_like")
BEFORE = {"retry": "retried before", "discard": "retried or discarded"}
DONE = {"retry": "goes out again", "discard": "is discarded"}
MANY = {"retry": "to go out again", "discard": "discarded"}
FORBIDDEN = (
    "this role may not insert into messaging.message_outbox, which copies need: "
    "run `dispatcher sql roles | psql OWNER_URL` again"
)


class DeadLetters:
    """`retried` is called after events were put back, so that they go out at once."""

    def __init__(self, fetch: Fetch, observe: Observer, retried: Callable[[], None]) -> None:
        self._fetch = fetch
        self._observe = observe
        self._retried = retried

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/api/dead-events", self._list),
            web.get("/api/dead-events/stats", self._stats),
            web.get(f"/api/dead-events/{EVENT}", self._show),
            *decisions("/api/dead-events", EVENT, ("retry", "discard"), self._one, self._batch),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        query = parameters(request, "limit", "offset", "payload", *FILTERS)
        limit, offset = whole(query, "limit", LIMIT, 1, PAGE), whole(query, "offset", 0, 0, FURTHEST)
        with explained():
            page = await find_page(
                self._fetch, filter_of(query), limit=limit, offset=offset, payload=switch(query, "payload")
            )
        rest = f'"count": {page.count}, "limit": {limit}, "offset": {offset}'
        return json_answer(f'{{"events": {page.events}, {rest}}}')

    async def _stats(self, request: web.Request) -> web.Response:
        query = parameters(request, *FILTERS)
        which = filter_of(query)
        with explained():
            found = await count(self._fetch, which)
        answer = {
            "total": found.total,
            "aggregate_type": which.aggregate_type,
            "event_type": which.event_type,
            "by_error": found.by_error,
            "by_type": found.by_type,
        }
        return json_answer(json.dumps(answer))

    async def _show(self, request: web.Request) -> web.Response:
        event = event_in_path(request)
        query = parameters(request, "payload")
        with explained():
            found = await find_one(self._fetch, event, payload=switch(query, "payload"))
        if found is None:
            raise Refusal(404, f"no dead event has the id {event}")
        return json_answer(found)

    async def _one(self, what: What, request: web.Request) -> web.Response:
        [event], by, reason = await decided_on(request, batch=False, why=what == "discard")
        done = await self._decide([event], Decision(what, by, reason))
        if not done.ids:
            if done.forbidden:
                raise Refusal(503, FORBIDDEN)
            raise Refusal(404, f"no dead event has the id {event}; one that was {BEFORE[what]} is not dead any more")
        return success(f"event {event} {DONE[what]}", done.ids[0])

    async def _batch(self, what: What, request: web.Request) -> web.Response:
        events, by, reason = await decided_on(request, batch=True, why=what == "discard")
        done = await self._decide(events, Decision(what, by, reason))
        if done.forbidden and not done.ids:
            raise Refusal(503, FORBIDDEN)
        message = f"{len(done.ids)} of {counted(len(set(events)), 'event')} {MANY[what]}"
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
        return json_answer(json.dumps(answer))

    async def _decide(self, events: Sequence[EventRef], decision: Decision) -> Decided:
        with explained(changes=True):
            done = await decide(self._fetch, events, decision)
        if done.ids and decision.what == "retry":
            self._observe(DeadRetried(done.ids, decision.by or "unknown"))
            self._retried()
        elif done.ids:
            self._observe(DeadDiscarded(done.ids, decision.by or "unknown", decision.reason or ""))
        return done


def filter_of(query: dict[str, str]) -> Filter:
    # A form sends what was left empty. An error that is empty is looked for: rows marked dead by hand have none.
    return Filter(
        event_type=query.get("event_type") or None,
        aggregate_type=query.get("aggregate_type") or None,
        aggregate_id=query.get("aggregate_id") or None,
        last_error=query.get("last_error"),
        error_code=query.get("error_code") or None,
        error_like=query.get("error_like") or None,
    )
