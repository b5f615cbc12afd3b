"""What the OpenAPI document is put together from: types, answers, parameters, errors."""

from collections.abc import Mapping
from typing import Any

from dispatcher.ops.dead_letters.identity import LARGEST
from dispatcher.sidecar.params import MOST_IDS, MOST_TEXT

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
TIME: Json = {"type": "string", "format": "date-time"}
NUMBER: Json = {"type": "integer", "minimum": 1, "maximum": LARGEST}
UUID: Json = {"type": "string", "format": "uuid"}
EVENT_REF: Json = {"anyOf": [NUMBER, UUID], "description": "The number of the event's row, or its event_id."}
OR_NULL: Json = {"type": ["string", "null"]}
TIME_OR_NULL: Json = {**TIME, **OR_NULL}
SWITCH: Json = {"type": "string", "enum": ["0", "1", "false", "true"], "default": "0"}

ERRORS = {
    "400": "Something asked for is wrong; `error` says what and what it must be.",
    "401": "No token, or a wrong one.",
    "403": "The API is off (no token is set and it listens for more than this machine), or another site's page asked.",
    "404": "No (dead) event has that id.",
    "408": "The body did not arrive in time.",
    "409": "The event is being published, or its handler runs: ask again.",
    "413": "The body is larger than 64 KiB.",
    "415": "The body is not declared as application/json.",
    "421": "The host name is not answered to (DISPATCH_HTTP_ALLOWED_HOSTS).",
    "429": "Too many requests; come back after `Retry-After` seconds.",
    "503": "Postgres cannot answer now; come back after `Retry-After` seconds.",
}
ALWAYS = ("401", "403", "421", "429")


def object_(properties: Mapping[str, Json], *, optional: tuple[str, ...] = ()) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def reply(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def in_query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def operation(identity: str, summary: str, answer: Json, errors: tuple[str, ...], **more: Any) -> Json:
    """One method of one path. `answer`: the response of 200; `errors`: codes beside those that any request may get."""
    codes = sorted({*ALWAYS, *errors})
    responses = {"200": answer} | {code: reply(ERRORS[code], ref("Error")) for code in codes}
    return {"operationId": identity, "summary": summary, "responses": responses, **more}


def listing(schema: Json) -> Json:
    return {"type": "array", "items": schema}


def body(properties: Mapping[str, Json], *, optional: tuple[str, ...] = (), required: bool = True) -> Json:
    """A request's body: a JSON object with these fields and no others."""
    schema = {**object_(properties, optional=optional), "additionalProperties": False}
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def whole(name: str, most: int, description: str, *, least: int = 0, default: int | None = None) -> Json:
    """A parameter that is a whole number."""
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return in_query(name, schema if default is None else {**schema, "default": default}, description)


def read(identity: str, summary: str, answer: str, schema: Json, *parameters: Json, one: bool = False) -> Json:
    """The GET of what Postgres is asked for. `one`: of the event in the path."""
    found = [*([EVENT_ID] if one else []), *parameters]
    codes = ("400", "404", "503") if one else ("400", "503")
    more: Json = {"parameters": found} if found else {}
    return operation(identity, summary, reply(answer, schema), codes, **more)


EVENT_ID: Json = {
    "name": "event_id",
    "in": "path",
    "required": True,
    "schema": {"anyOf": [NUMBER, UUID]},
    "description": EVENT_REF["description"],
}
PAYLOAD = in_query("payload", SWITCH, "1: with payload and headers.")
WITH_PAYLOAD: Json = {
    "payload": {"description": "Only with payload=1. As the application wrote it."},
    "headers": {"description": "Only with payload=1."},
}


# Of a person who acts.
BY: Json = {
    "type": ["string", "null"],
    "maxLength": MOST_TEXT,
    "pattern": "^[^\\x00]*$",
    "description": "Who asks, in their own words; the address is added.",
}
REASON: Json = {**BY, "description": "Why, in a few words."}
WHY: Json = {**REASON, "type": "string", "pattern": "^[^\\x00]*[^\\x00\\s][^\\x00]*$"}
EVENT_IDS: Json = {**listing(EVENT_REF), "minItems": 1, "maxItems": MOST_IDS}

# Which dead or held events.
FILTERS = [
    in_query("aggregate_type", TEXT, "Only of this aggregate type."),
    in_query("aggregate_id", TEXT, "Only of this aggregate."),
    in_query("event_type", TEXT, "Only of this event type."),
    in_query("last_error", TEXT, "Only with this error, whole; empty: without one, as when marked dead by hand."),
    in_query("error_code", TEXT, "Only of this group of errors: the text with its figures as `#`."),
    in_query("error_like", TEXT, "Only with an error that contains this, in upper or lower case."),
]


def decision(
    identity: str, summary: str, answer: Json, *, one: bool, why: bool = False, errors: tuple[str, ...] = ()
) -> Json:
    """The POST of a person who acts on the event in the path (`one`), or on those that the body names. `why`: only with
    a reason. `errors`: codes beside those that each such request may get.
    """
    fields = {} if one else {"event_ids": EVENT_IDS}
    fields |= {"reason": WHY, "by": BY} if why else {"by": BY, "reason": REASON}
    sent = body(fields, optional=("by",) if why else ("by", "reason"), required=why or not one)
    codes = ("400", "408", "413", "415", "503", *(("404",) if one else ()), *errors)
    where: Json = {"parameters": [EVENT_ID]} if one else {}
    return {"post": operation(identity, summary, answer, codes, **where, requestBody=sent)}
