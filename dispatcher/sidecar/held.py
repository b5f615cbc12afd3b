"""The API of held aggregates: listed, and the events that hold them retried or skipped."""

from collections.abc import Callable, Sequence

from aiohttp import web

from dispatcher.core.events import HeldSkipped, Observer, RetriedNow
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.decide import Decision
from dispatcher.ops.dead_letters.identity import LARGEST, EventRef
from dispatcher.ops.held.decide import HeldDecided, as_text, decide_held
from dispatcher.ops.held.find import PAGE, find_held
from dispatcher.sidecar.asking import What, decided_on, decisions, explained, json_answer, success
from dispatcher.sidecar.dead_letters import FILTERS, LIMIT, filter_of
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.params import (
    parameters,
    whole,
)

EVENT = r"{event_id:(?!(?:retry-batch|skip-batch)$)[^{}/]+}"  # those are no events
DONE = {"retry": "is tried now", "skip": "is skipped"}


class HeldAggregates:
    """`changed` is called after events were retried or skipped, so that what waits goes out at once."""

    def __init__(self, fetch: Fetch, observe: Observer, changed: Callable[[], None]) -> None:
        self._fetch = fetch
        self._observe = observe
        self._changed = changed

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/api/held-aggregates", self._list),
            *decisions("/api/held-aggregates", EVENT, ("retry", "skip"), self._one, self._batch),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        query = parameters(request, "limit", "after", *FILTERS)
        limit, after = whole(query, "limit", LIMIT, 1, PAGE), whole(query, "after", 0, 0, LARGEST)
        with explained():
            page = await find_held(self._fetch, filter_of(query), limit=limit, after=after)
        return json_answer(page.as_json(limit))

    async def _one(self, what: What, request: web.Request) -> web.Response:
        [event], by, reason = await decided_on(request, batch=False, why=what == "skip")
        done = await self._decide([event], Decision(what, by, reason))
        if done.in_flight:
            raise Refusal(409, f"event {event} is being published, or its handler runs: ask again")
        if not done.ids:
            raise Refusal(404, f"no event with the id {event} holds its aggregate (any more)")
        return success(f"event {event} {DONE[what]}", done.ids[0])

    async def _batch(self, what: What, request: web.Request) -> web.Response:
        events, by, reason = await decided_on(request, batch=True, why=what == "skip")
        return json_answer(as_text(len(events), await self._decide(events, Decision(what, by, reason))))

    async def _decide(self, events: Sequence[EventRef], decision: Decision) -> HeldDecided:
        with explained(changes=True):
            done = await decide_held(self._fetch, events, decision)
        if done.ids:
            by, ids = decision.by or "unknown", tuple(done.ids)
            skipped = HeldSkipped(ids, by, decision.reason or "")
            self._observe(RetriedNow(ids, by) if decision.what == "retry" else skipped)
            self._changed()
        return done
