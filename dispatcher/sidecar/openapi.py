"""The OpenAPI 3.1 document of everything under /api, at /api/openapi.json. A test holds it to the routes."""

from aiohttp import web

from dispatcher import __version__
from dispatcher.ops.dead_letters.find import PAGE
from dispatcher.sidecar.dead_letters import FURTHEST, LIMIT
from dispatcher.sidecar.openapi_events import EVENT_PATHS, EVENT_SCHEMAS
from dispatcher.sidecar.openapi_held import HELD_PATHS, HELD_SCHEMAS
from dispatcher.sidecar.openapi_parts import (
    COUNT,
    EVENT_REF,
    FILTERS,
    NUMBER,
    OR_NULL,
    PAYLOAD,
    TEXT,
    TIME,
    TIME_OR_NULL,
    UUID,
    WITH_PAYLOAD,
    Json,
    decision,
    listing,
    object_,
    operation,
    read,
    ref,
    reply,
    whole,
)

EVENT = object_(
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
        "died_at": {**TIME_OR_NULL, "description": "Null when marked dead by hand."},
        "replay_count": {**COUNT, "description": "How often it was replayed since it was first buried."},
        "in_outbox": {"type": "boolean", "description": "False: the row was pruned, the copy is what is left."},
        **WITH_PAYLOAD,
    },
    optional=tuple(WITH_PAYLOAD),
)
SCHEMAS: Json = {
    **EVENT_SCHEMAS,
    **HELD_SCHEMAS,
    "Error": object_({"error": TEXT}),
    "DeadEvent": EVENT,
    "Page": object_({"events": listing(ref("DeadEvent")), "count": COUNT, "limit": COUNT, "offset": COUNT}),
    "Stats": object_(
        {
            "total": COUNT,
            "aggregate_type": OR_NULL,
            "event_type": OR_NULL,
            "by_error": listing(
                object_(
                    {
                        "code": {
                            **TEXT,
                            "description": "The error; its figures are `#`.",
                        },
                        "last_error": {**OR_NULL, "description": "Of the event that was inserted last."},
                        "count": COUNT,
                        "texts": {**COUNT, "description": "How many different texts there are."},
                        "figures": {
                            **listing(listing({"type": "number"})),
                            "description": "Least and greatest of each figure that is not the same in all texts.",
                        },
                        "event_types": {**listing(TEXT), "description": "At most five of them."},
                        "first_at": {**TIME, "description": "When the first of them died."},
                        "last_at": TIME,
                    }
                )
            ),
            "by_type": listing(object_({"event_type": TEXT, "aggregate_type": TEXT, "count": COUNT})),
        }
    ),
    "History": object_(
        {
            "every_s": {"type": "number"},
            "keep": COUNT,
            "fields": listing(TEXT),
            "next": COUNT,
            "points": listing(listing({"type": ["number", "null"]})),
        }
    ),
    "Decided": object_({"status": {"const": "success"}, "message": TEXT, "event_id": NUMBER}),
    "DecidedBatch": object_(
        {
            "status": {"const": "success"},
            "message": TEXT,
            "requested": {**COUNT, "description": "How many ids were sent."},
            "processed": {**COUNT, "description": "How many events were dead, and go out again or are discarded."},
            "not_dead": {**listing(EVENT_REF), "description": "The others: unknown, or not dead."},
        }
    ),
}
PATHS: Json = {
    "/api/dead-events": {
        "get": read(
            "listDeadEvents",
            "Dead events, those inserted last first.",
            "A page of them.",
            ref("Page"),
            whole("limit", PAGE, "The page has at most this many events.", least=1, default=LIMIT),
            whole("offset", FURTHEST, "The page begins after this many events.", default=0),
            *FILTERS,
            PAYLOAD,
        )
    },
    "/api/dead-events/stats": {
        "get": read(
            "countDeadEvents",
            "How many events are dead, and the largest groups of them.",
            "The counts.",
            ref("Stats"),
            *FILTERS,
        )
    },
    "/api/dead-events/retry-batch": decision(
        "retryDeadEvents",
        "Publish dead events again. An event that is not dead (any more) is left alone.",
        reply("What became of them.", ref("DecidedBatch")),
        one=False,
    ),
    "/api/dead-events/{event_id}": {
        "get": read("getDeadEvent", "One dead event.", "The event.", ref("DeadEvent"), PAYLOAD, one=True)
    },
    "/api/dead-events/{event_id}/retry": decision(
        "retryDeadEvent",
        "Publish a dead event again, once however often this is asked.",
        reply("It goes out again.", ref("Decided")),
        one=True,
    ),
    "/api/dead-events/discard-batch": decision(
        "discardDeadEvents",
        "Decide that nobody needs these dead events. Their copies stay until the retention ends.",
        reply("What became of them.", ref("DecidedBatch")),
        one=False,
        why=True,
    ),
    "/api/dead-events/{event_id}/discard": decision(
        "discardDeadEvent",
        "Decide that nobody needs a dead event.",
        reply("It is not dead any more.", ref("Decided")),
        one=True,
        why=True,
    ),
    **HELD_PATHS,
    **EVENT_PATHS,
    "/api/overview": {
        "get": operation(
            "overview",
            "What the console shows as now.",
            reply("For the console; fields may come and go.", {"type": "object"}),
            (),
        )
    },
    "/api/history": {
        "get": operation(
            "history",
            "The last fifteen minutes, a point every two seconds.",
            reply("Rows of `points` under the names of `fields`.", ref("History")),
            ("400",),
            parameters=[
                whole(
                    "after",
                    10**15 - 1,
                    "The answer has the points from this number on; it is the `next` of the answer before.",
                )
            ],
        )
    },
    "/api/openapi.json": {
        "get": operation("getDocument", "This document.", reply("OpenAPI 3.1.", {"type": "object"}), ())
    },
}
DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Dispatcher: API",
        "version": __version__,
        "description": "Events of the outbox: found, counted, published again, discarded; held aggregates; the pause; "
        "consumer groups.",
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
