"""What the endpoints that ask Postgres have in common: who asks, how they answer, and what an error becomes."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import psycopg
from aiohttp import web

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.ops.dead_letters.find import TooLarge
from dispatcher.ops.dead_letters.identity import EventRef
from dispatcher.ops.outbox_events import WrongQuestion
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.params import body_of, event_in_path, events_of, parameters, required_text, text_of

What = Literal["retry", "discard", "skip"]
Decide = Callable[[What, web.Request], Awaitable[web.StreamResponse]]


def person(request: web.Request, body: Mapping[str, object]) -> str:
    """Who asks, for the log and the history: the name that the request gives, if any, and its address."""
    address = request.remote or "unknown"
    name = text_of(body, "by")
    return f"{name} ({address})" if name else address


async def decided_on(request: web.Request, *, batch: bool, why: bool) -> tuple[list[EventRef], str, str | None]:
    """The events that a person decides on, who it is, and the reason. `batch`: the events that the body names, not the
    one in the path; `why`: not without a reason.
    """
    events = [] if batch else [event_in_path(request)]
    parameters(request)
    fields = (*(("event_ids",) if batch else ()), *(("reason", "by") if why else ("by", "reason")))
    body = await body_of(request, fields, needed=batch or why)
    events = events_of(body) if batch else events
    reason = required_text(body, "reason") if why else text_of(body, "reason")
    return events, person(request, body), reason


def decisions(path: str, event: str, kinds: Sequence[What], one: Decide, batch: Decide) -> list[web.RouteDef]:
    """The routes of each kind of decision: on the event in the path (`one`), and on those that the body names."""
    return [
        route
        for what in kinds
        for route in (
            web.post(f"{path}/{what}-batch", partial(batch, what)),
            web.post(f"{path}/{event}/{what}", partial(one, what)),
        )
    ]


def success(message: str, row: int) -> web.Response:
    return json_answer(json.dumps({"status": "success", "message": message, "event_id": row}))


def json_answer(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


@contextmanager
def explained(*, changes: bool = False) -> Iterator[None]:
    """Turn errors of Postgres into answers. `changes`: the request would have changed rows."""
    again = {"Retry-After": "1"}
    try:
        yield
    except (TooLarge, WrongQuestion) as error:
        raise Refusal(400, str(error)) from None
    except SessionLost:
        doubt = "; whether it was done is not known: ask again, nothing is done twice" if changes else ": ask again"
        raise Refusal(503, f"the connection to Postgres broke{doubt}", again) from None
    except DispatcherError as error:  # busy, unreachable, misconfigured
        raise Refusal(503, str(error), again) from None
    except psycopg.errors.QueryCanceled:
        raise Refusal(503, "Postgres took too long: narrow it down with event_type or aggregate_type", again) from None
    except psycopg.errors.InsufficientPrivilege:
        raise Refusal(
            503, "this role may not do that: grant it the role outbox_dispatcher (`dispatcher sql roles`)"
        ) from None
    except psycopg.Error as error:
        raise Refusal(503, f"Postgres refused: {type(error).__name__} {error.sqlstate}", again) from None
