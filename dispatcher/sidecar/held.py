"""The API of held aggregates: listed, and the events that hold them retried or skipped."""

import json
from collections.abc import Callable, Sequence
from typing import Literal

from aiohttp import web

from dispatcher.core.events import HeldSkipped, Observer, RetriedNow
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.identity import LARGEST, EventRef
from dispatcher.ops.held.decide import HeldDecided, HeldDecision, as_text, decide_held
from dispatcher.ops.held.find import PAGE, find_held
from dispatcher.sidecar.asking import decided_on, explained, json_answer
from dispatcher.sidecar.dead_letters import FILTERS, LIMIT, filter_of
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.params import (
    BODY_S,
    parameters,
    whole,
)

EVENT = r"{event_id:(?!(?:retry-batch|skip-batch)$)[^{}/]+}"  # those are no events
What = Literal["retry", "skip"]
DONE: dict[What, str] = {"retry": "is tried now", "skip": "is skipped"}


class HeldAggregates:
    """`changed` is called after events were retried or skipped, so that what waits goes out at once."""

    def __init__(self, fetch: Fetch, observe: Observer, changed: Callable[[], None], *, body_s: float = BODY_S) -> None:
        self._body_s = body_s
        self._fetch = fetch
        self._observe = observe
        self._changed = changed

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/api/held-aggregates", self._list),
            web.post("/api/held-aggregates/retry-batch", self._retry_batch),
            web.post("/api/held-aggregates/skip-batch", self._skip_batch),
            web.post(f"/api/held-aggregates/{EVENT}/retry", self._retry),
            web.post(f"/api/held-aggregates/{EVENT}/skip", self._skip),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        query = parameters(request, "limit", "after", *FILTERS)
        limit, after = whole(query, "limit", LIMIT, 1, PAGE), whole(query, "after", 0, 0, LARGEST)
        with explained():
            page = await find_held(self._fetch, filter_of(query), limit=limit, after=after)
        return json_answer(page.as_json(limit))

    async def _retry(self, request: web.Request) -> web.Response:
        return await self._one(request, "retry")

    async def _skip(self, request: web.Request) -> web.Response:
        return await self._one(request, "skip")

    async def _retry_batch(self, request: web.Request) -> web.Response:
        return await self._batch(request, "retry")

    async def _skip_batch(self, request: web.Request) -> web.Response:
        return await self._batch(request, "skip")

    async def _one(self, request: web.Request, what: What) -> web.Response:
        [event], by, reason = await decided_on(request, self._body_s, batch=False, why=what == "skip")
        done = await self._decide([event], HeldDecision(what, by, reason))
        if done.in_flight:
            raise Refusal(409, f"event {event} is being published, or its handler runs: ask again")
        if not done.ids:
            raise Refusal(404, f"no event with the id {event} holds its aggregate (any more)")
        message = f"event {event} {DONE[what]}"
        return json_answer(json.dumps({"status": "success", "message": message, "event_id": done.ids[0]}))

    async def _batch(self, request: web.Request, what: What) -> web.Response:
        events, by, reason = await decided_on(request, self._body_s, batch=True, why=what == "skip")
        return json_answer(as_text(len(events), await self._decide(events, HeldDecision(what, by, reason))))

    async def _decide(self, events: Sequence[EventRef], decision: HeldDecision) -> HeldDecided:
        with explained(changes=True):
            done = await decide_held(self._fetch, events, decision)
        if done.ids:
            by = decision.by or "unknown"
            ids = tuple(done.ids)
            self._observe(
                RetriedNow(ids, by) if decision.what == "retry" else HeldSkipped(ids, by, decision.reason or "")
            )
            self._changed()
        return done
