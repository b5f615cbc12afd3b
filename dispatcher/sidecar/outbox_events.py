"""The API of all events: lists by status, search, one event with its history, counts, and a retry."""

import json
from collections.abc import Callable
from dataclasses import asdict

from aiohttp import web

from dispatcher.core.events import DeadRetried, Observer, RetriedNow
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.decide import Decision, decide
from dispatcher.ops.dead_letters.find import PAGE
from dispatcher.ops.outbox_events import STATUSES, EventPage, count_events, find, list_events, show
from dispatcher.sidecar.asking import decided_on, explained, json_answer, success
from dispatcher.sidecar.dead_letters import FILTERS, FORBIDDEN, LIMIT, filter_of
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.params import event_in_path, parameters, switch, whole

EVENT = r"{event_id:(?!(?:find|counts)$)[^{}/]+}"
LONGEST = 1000  # characters of what is searched for


class Events:
    """`max_attempts`: as this dispatcher has it, so that "7 of 10 attempts" can be said. `retried`: see DeadLetters."""

    def __init__(self, fetch: Fetch, max_attempts: int, observe: Observer, retried: Callable[[], None]) -> None:
        self._fetch = fetch
        self._observe = observe
        self._retried = retried
        self._max_attempts = max_attempts

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/api/events", self._list),
            web.get("/api/events/find", self._find),
            web.get("/api/events/counts", self._counts),
            web.get(f"/api/events/{EVENT}", self._show),
            web.post(f"/api/events/{EVENT}/retry", self._retry),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        query = parameters(request, "status", "limit", "after", *FILTERS)
        status = query.get("status") or None
        if status is not None and status not in STATUSES:
            raise Refusal(400, f"status must be one of {', '.join(STATUSES)}")
        with explained():
            page = await list_events(
                self._fetch,
                status,
                filter_of(query),
                limit=whole(query, "limit", LIMIT, 1, PAGE),
                after=query.get("after") or None,
            )
        return self._page(page)

    async def _find(self, request: web.Request) -> web.Response:
        query = parameters(request, "q", "limit", "after")
        text = query.get("q", "")
        if not 0 < len(text) <= LONGEST:
            raise Refusal(
                400, f"q must be a row number, event_id, message_id or [type/]aggregate_id of 1 to {LONGEST} characters"
            )
        with explained():
            page = await find(
                self._fetch, text, limit=whole(query, "limit", LIMIT, 1, PAGE), after=query.get("after") or None
            )
        return self._page(page)

    async def _counts(self, request: web.Request) -> web.Response:
        parameters(request)
        with explained():
            found = await count_events(self._fetch)
        return json_answer(json.dumps(asdict(found)))

    async def _show(self, request: web.Request) -> web.Response:
        event = event_in_path(request)
        query = parameters(request, "payload")
        with explained():
            found = await show(self._fetch, event, payload=switch(query, "payload"))
        if found is None:
            raise Refusal(404, f"no event has the id {event}")
        return json_answer(f'{{"max_attempts": {self._max_attempts}, {found[1:]}')

    async def _retry(self, request: web.Request) -> web.Response:
        """A dead event begins anew; one in status retry is tried now."""
        [event], by, reason = await decided_on(request, batch=False, why=False)
        with explained(changes=True):
            done = await decide(self._fetch, [event], Decision("retry", by, reason, tried=True))
        if done.forbidden:
            raise Refusal(503, FORBIDDEN)
        if done.not_dead:
            raise Refusal(404, f"no event with the id {event} is dead or in status retry (any more)")
        self._observe(RetriedNow(done.tried, by) if done.tried else DeadRetried(done.ids, by))
        self._retried()
        words = "is tried now, with the attempts that it has left" if done.tried else "goes out again"
        return success(f"event {event} {words}", [*done.tried, *done.ids][0])

    def _page(self, page: EventPage) -> web.Response:
        rest = f'"next": {json.dumps(page.next)}, "max_attempts": {self._max_attempts}'
        return json_answer(f'{{"events": {page.events}, {rest}}}')
