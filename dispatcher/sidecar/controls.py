"""The API of what holds events back: the pause of all dispatchers, and the consumer groups of the stream."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from aiohttp import web

from dispatcher.core.errors import DispatcherError, Misconfigured
from dispatcher.core.timestamps import iso
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.groups import GroupsQuestion, read_groups
from dispatcher.ops.pause import PauseSwitch, read_switch, switch
from dispatcher.sidecar.asking import explained, json_answer, person
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.params import body_of, parameters, text_of


class Controls:
    """`groups()`: where the stream is, as it is now."""

    def __init__(self, fetch: Fetch, groups: Callable[[], GroupsQuestion]) -> None:
        self._fetch = fetch
        self._groups = groups

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/api/pause", self._read),
            web.post("/api/pause", partial(self._switch, True)),
            web.post("/api/resume", partial(self._switch, False)),
            web.get("/api/groups", self._list_groups),
        ]

    async def _read(self, request: web.Request) -> web.Response:
        parameters(request)
        with explained():
            return json_answer(_as_text(await read_switch(self._fetch)))

    async def _switch(self, paused: bool, request: web.Request) -> web.Response:
        parameters(request)
        body = await body_of(request, ("reason", "by"), needed=False)
        with explained(changes=True):
            now, changed = await switch(
                self._fetch, paused=paused, by=person(request, body), reason=text_of(body, "reason")
            )
        return json_answer(_as_text(now, changed=changed))

    async def _list_groups(self, request: web.Request) -> web.Response:
        parameters(request)
        try:
            streams, problem = await read_groups(self._groups())
        except Misconfigured as error:
            raise Refusal(503, str(error)) from None
        except DispatcherError as error:
            raise Refusal(503, str(error), {"Retry-After": "1"}) from None
        return json_answer(json.dumps({"streams": [asdict(each) for each in streams], "problem": problem}))


def _as_text(now: PauseSwitch, **more: bool) -> str:
    since = iso(now.changed_at) if now.changed_at else None
    return json.dumps({"paused": now.paused, "by": now.changed_by, "reason": now.reason, "since": since} | more)
