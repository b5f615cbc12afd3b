"""The OpenAPI 3.1 document of everything under /api, at /api/openapi.json. A test holds it to the routes."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from dispatcher import __version__
from dispatcher.ops.dead_letters.find import PAGE
from dispatcher.ops.dead_letters.identity import LARGEST
from dispatcher.sidecar.dead_letters import FURTHEST, LIMIT
from dispatcher.sidecar.params import MOST_IDS

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
TIME: Json = {"type": "string", "format": "date-time"}
NUMBER: Json = {"type": "integer", "minimum": 1, "maximum": LARGEST}
UUID: Json = {"type": "string", "format": "uuid"}
EVENT_REF: Json = {"anyOf": [NUMBER, UUID], "description": "The number of the event's row, or its event_id."}
SWITCH: Json = {"type": "string", "enum": ["0", "1", "false", "true"], "default": "0"}

ERRORS = {
    "400": "Something asked for is wrong; `error` says what and what it must be.",
    "401": "No token, or a wrong one.",
    "403": "The API is off (no token is set and it listens for more than this machine), or another site's page asked.",
    "404": "No dead event has that id.",
    "408": "The body did not arrive in time.",
    "413": "The body is larger than 64 KiB.",
    "415": "The body is not declared as application/json.",
    "421": "The host name is not answered to (DISPATCH_HTTP_ALLOWED_HOSTS).",
    "429": "Too many requests; come back after `Retry-After` seconds.",
    "503": "Postgres cannot answer now; come back after `Retry-After` seconds.",
}
ALWAYS = ("401", "403", "421", "429")


def _object(properties: Mapping[str, Json], *, optional: tuple[str, ...] = ()) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _in_query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def operation(identity: str, summary: str, answer: Json, errors: tuple[str, ...], **more: Any) -> Json:
    """One method of one path. `answer`: the response of 200; `errors`: codes beside those that any request may get."""
    codes = sorted({*ALWAYS, *errors})
    responses = {"200": answer} | {code: _answer(ERRORS[code], _ref("Error")) for code in codes}
    return {"operationId": identity, "summary": summary, "responses": responses, **more}


EVENT = _object(
    {
        "id": NUMBER,
        "event_id": UUID,
        "message_id": UUID,
        "event_type": TEXT,
        "aggregate_type": TEXT,
        "aggregate_id": TEXT,
        "status": {"const": "dead"},
        "attempts": COUNT,
        "last_error": {
            "type": ["string", "null"],
            "description": "At most 500 characters: `redis: ` and Redis's own text, a handler's class and message "
            "without values of the payload, or a sentence of the dispatcher. Null when marked dead by hand.",
        },
        "occurred_at": TIME,
        "died_at": {**TIME, "type": ["string", "null"], "description": "Null when marked dead by hand."},
        "replay_count": {**COUNT, "description": "How often it was replayed since it was first buried."},
        "in_outbox": {"type": "boolean", "description": "False: the row was pruned, the copy is what is left."},
        "payload": {"description": "Only with payload=1. As the application wrote it."},
        "headers": {"description": "Only with payload=1."},
    },
    optional=("payload", "headers"),
)
SCHEMAS: Json = {
    "Error": _object({"error": TEXT}),
    "Event": EVENT,
    "Page": _object(
        {"events": {"type": "array", "items": _ref("Event")}, "count": COUNT, "limit": COUNT, "offset": COUNT}
    ),
    "Stats": _object(
        {
            "total": COUNT,
            "aggregate_type": {"type": ["string", "null"]},
            "event_type": {"type": ["string", "null"]},
            "by_error": {
                "type": "array",
                "items": _object({"last_error": {"type": ["string", "null"]}, "count": COUNT}),
            },
            "by_type": {
                "type": "array",
                "items": _object({"event_type": TEXT, "aggregate_type": TEXT, "count": COUNT}),
            },
        }
    ),
    "History": _object(
        {
            "every_s": {"type": "number"},
            "keep": COUNT,
            "fields": {"type": "array", "items": TEXT},
            "next": COUNT,
            "points": {"type": "array", "items": {"type": "array", "items": {"type": ["number", "null"]}}},
        }
    ),
    "Retried": _object({"status": {"const": "success"}, "message": TEXT, "event_id": NUMBER}),
    "RetriedBatch": _object(
        {
            "status": {"const": "success"},
            "message": TEXT,
            "requested": {**COUNT, "description": "How many ids were sent."},
            "processed": {**COUNT, "description": "How many events were dead and go out again."},
            "not_dead": {"type": "array", "items": EVENT_REF, "description": "The others: unknown, or not dead."},
        }
    ),
}
FILTERS = [
    _in_query("aggregate_type", TEXT, "Only of this aggregate type."),
    _in_query("event_type", TEXT, "Only of this event type."),
    _in_query("last_error", TEXT, "Only with this error, whole; empty: without one, as when marked dead by hand."),
]
PAYLOAD = _in_query("payload", SWITCH, "1: with payload and headers.")
EVENT_ID: Json = {
    "name": "event_id",
    "in": "path",
    "required": True,
    "schema": {"anyOf": [NUMBER, UUID]},
    "description": EVENT_REF["description"],
}
BATCH: Json = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                **_object({"event_ids": {"type": "array", "items": EVENT_REF, "minItems": 1, "maxItems": MOST_IDS}}),
                "additionalProperties": False,
            }
        }
    },
}
PATHS: Json = {
    "/api/dead-events": {
        "get": operation(
            "listDeadEvents",
            "Dead events, those inserted last first.",
            _answer("A page of them.", _ref("Page")),
            ("400", "503"),
            parameters=[
                _in_query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": PAGE, "default": LIMIT},
                    "The page has at most this many events.",
                ),
                _in_query(
                    "offset",
                    {"type": "integer", "minimum": 0, "maximum": FURTHEST, "default": 0},
                    "The page begins after this many events.",
                ),
                *FILTERS,
                PAYLOAD,
            ],
        )
    },
    "/api/dead-events/stats": {
        "get": operation(
            "countDeadEvents",
            "How many events are dead, and the largest groups of them.",
            _answer("The counts.", _ref("Stats")),
            ("400", "503"),
            parameters=FILTERS,
        )
    },
    "/api/dead-events/retry-batch": {
        "post": operation(
            "retryDeadEvents",
            "Publish dead events again. An event that is not dead (any more) is left alone.",
            _answer("What became of them.", _ref("RetriedBatch")),
            ("400", "408", "413", "415", "503"),
            requestBody=BATCH,
        )
    },
    "/api/dead-events/{event_id}": {
        "get": operation(
            "getDeadEvent",
            "One dead event.",
            _answer("The event.", _ref("Event")),
            ("400", "404", "503"),
            parameters=[EVENT_ID, PAYLOAD],
        )
    },
    "/api/dead-events/{event_id}/retry": {
        "post": operation(
            "retryDeadEvent",
            "Publish a dead event again, once however often this is asked.",
            _answer("It goes out again.", _ref("Retried")),
            ("400", "404", "503"),
            parameters=[EVENT_ID],
        )
    },
    "/api/overview": {
        "get": operation(
            "overview",
            "What the console shows as now.",
            _answer("For the console; fields may come and go.", {"type": "object"}),
            (),
        )
    },
    "/api/history": {
        "get": operation(
            "history",
            "The last fifteen minutes, a point every two seconds.",
            _answer("Rows of `points` under the names of `fields`.", _ref("History")),
            ("400",),
            parameters=[
                _in_query(
                    "after",
                    {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
                    "The answer has the points from this number on; it is the `next` of the answer before.",
                )
            ],
        )
    },
    "/api/openapi.json": {
        "get": operation("getDocument", "This document.", _answer("OpenAPI 3.1.", {"type": "object"}), ())
    },
}
DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Dispatcher: dead-letter API",
        "version": __version__,
        "description": "Dead events of the transactional outbox: found, counted, published again.",
        "license": {"name": "MIT", "identifier": "MIT"},
    },
    "security": [{"token": []}],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The value of DISPATCH_API_TOKEN, if it is set.",
            }
        },
    },
}


def document() -> web.RouteDef:

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(DOCUMENT)

    return web.get("/api/openapi.json", answer)
