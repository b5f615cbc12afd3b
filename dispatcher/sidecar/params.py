"""Reads the parameters of a request. A wrong one is a 400 that names it and what it must be."""

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

import anyio
from aiohttp import web

from dispatcher.ops.dead_letters.identity import LARGEST, WANTED, EventRef, parse
from dispatcher.sidecar.errors import Refusal

BODY_S = 10.0  # the longest that a whole body may take to arrive
MOST_IDS = 1000
MOST_TEXT = 200  # characters of a name or a reason


def parameters(request: web.Request, *names: str) -> dict[str, str]:
    """The query, in which only these names may stand, each once, as text that Postgres can hold."""
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in names:
            there = ", ".join(names) or "none"
            raise Refusal(400, f"{name[:40]!r} is not a parameter here; there is: {there}")
        if name in found:
            raise Refusal(400, f"{name} is given more than once")
        if "\0" in value or not _is_unicode(value):
            raise Refusal(400, f"{name} must be text without NUL, in UTF-8")
        found[name] = value
    return found


def whole(query: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number between two limits, both included."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and low <= int(text) <= high):
        raise Refusal(400, f"{name} must be a whole number from {low} to {high}")
    return int(text)


def switch(query: dict[str, str], name: str) -> bool:
    """Off unless it is 1 or true."""
    text = query.get(name, "0")
    if text not in ("0", "1", "false", "true"):
        raise Refusal(400, f"{name} must be 1 or 0")
    return text in ("1", "true")


def event_in_path(request: web.Request) -> EventRef:
    try:
        return parse(request.match_info["event_id"])
    except ValueError as error:
        raise Refusal(400, f"the event's id must be {error}") from None


async def body_of(request: web.Request, names: Sequence[str], *, needed: bool = True) -> Mapping[str, object]:
    """The body, a JSON object in which only these names may stand; it must arrive within BODY_S.

    Not `needed`: without a body it is empty.
    """
    if not needed and not request.can_read_body:
        return {}
    body = await _json(request)
    if not isinstance(body, dict):
        raise Refusal(400, f"the body must be a JSON object with {', '.join(names)}")
    for name in body:
        if name not in names:
            raise Refusal(400, f"{name[:40]!r} is not a field here; there is: {', '.join(names)}")
    return body


def text_of(body: Mapping[str, object], name: str) -> str | None:
    """A text of a body, at most MOST_TEXT characters, on one line; None: it is not there, null or blank."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value or not _is_unicode(value):
        raise Refusal(400, f"{name} must be text without NUL")
    text = " ".join(value.split())
    if len(text) > MOST_TEXT:
        raise Refusal(400, f"{name} must have at most {MOST_TEXT} characters; it has {len(text)}")
    return text or None


def required_text(body: Mapping[str, object], name: str) -> str:
    text = text_of(body, name)
    if text is None:
        raise Refusal(400, f"{name} must say why, in a few words")
    return text


def events_of(body: Mapping[str, object]) -> list[EventRef]:
    """The events of `{"event_ids": [...]}`, as they were given."""
    given = body.get("event_ids")
    if not isinstance(given, list):
        raise Refusal(400, 'the body must be a JSON object {"event_ids": [...]}')
    if not 1 <= len(given) <= MOST_IDS:
        raise Refusal(400, f"event_ids must have 1 to {MOST_IDS} ids; there are {len(given)}")
    return [_event(value, position) for position, value in enumerate(given)]


def _event(value: object, position: int) -> EventRef:
    if isinstance(value, float) and value.is_integer():  # 7.0 is an integer in JSON
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST:
        return value
    try:
        if isinstance(value, str) and isinstance(uuid := parse(value), UUID):
            return uuid
    except ValueError:
        pass
    raise Refusal(400, f"event_ids[{position}] must be {WANTED}")


async def _json(request: web.Request) -> object:
    if request.content_type != "application/json":
        # A page of another site cannot send this one without asking first.
        raise Refusal(415, "the body must be JSON: send 'Content-Type: application/json'")
    try:
        with anyio.fail_after(BODY_S):
            text = await request.read()
        return json.loads(text)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_S:g} s", {"Connection": "close"}) from None
    except web.RequestPayloadError:
        raise Refusal(400, "the body is not what its headers say") from None
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not JSON") from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
