"""The part of the OpenAPI document that is about held aggregates."""

from dispatcher.ops.dead_letters.identity import LARGEST
from dispatcher.ops.held.find import BOUND, PAGE
from dispatcher.sidecar.dead_letters import LIMIT
from dispatcher.sidecar.openapi_parts import (
    COUNT,
    EVENT_REF,
    FILTERS,
    NUMBER,
    OR_NULL,
    TEXT,
    TIME,
    TIME_OR_NULL,
    UUID,
    Json,
    decision,
    listing,
    object_,
    read,
    ref,
    reply,
    whole,
)

HELD_SCHEMAS: dict[str, Json] = {
    "HeldAggregate": object_(
        {
            "id": {**NUMBER, "description": "Of the event that holds it, as are event_id, event_type and the rest."},
            "event_id": UUID,
            "event_type": TEXT,
            "aggregate_type": TEXT,
            "aggregate_id": TEXT,
            "state": {
                "type": "string",
                "enum": ["retry", "dead", "parked", "in_flight"],
                "description": "retry: tried again at next_attempt_at. dead: until somebody decides. parked: a person "
                "set next_run_at to infinity. in_flight: it is being published, or its handler runs.",
            },
            "attempts": COUNT,
            "last_error": OR_NULL,
            "waiting": {**COUNT, "description": f"Later events of the aggregate; counted in {BOUND} unsettled rows."},
            "since": {**TIME, "description": "When the event failed first."},
            "next_attempt_at": {**TIME_OR_NULL, "description": "Null unless the state is retry."},
        }
    ),
    "HeldPage": object_(
        {
            "aggregates": listing(ref("HeldAggregate")),
            "total": {**COUNT, "description": "How many match, on all pages."},
            "count": COUNT,
            "limit": COUNT,
            "order": {"type": "string", "enum": ["none", "aggregate"], "description": "none: nothing is ever held."},
            "order_on_dead": {
                **OR_NULL,
                "description": "continue or hold, see DISPATCH_ORDER_ON_DEAD; null: no order.",
            },
        }
    ),
    "HeldDecidedBatch": object_(
        {
            "requested": {**COUNT, "description": "How many ids were sent."},
            "processed": {**COUNT, "description": "How many events were retried or skipped."},
            "in_flight": {**listing(NUMBER), "description": "Being published, or their handlers run: ask again."},
            "not_held": {**listing(EVENT_REF), "description": "The others: unknown, or they hold nothing (any more)."},
        }
    ),
}
HELD_PATHS: Json = {
    "/api/held-aggregates": {
        "get": read(
            "listHeldAggregates",
            "Aggregates whose later events wait for one that fails, by the ids of those.",
            "A page of them.",
            ref("HeldPage"),
            whole("limit", PAGE, "The page has at most this many.", least=1, default=LIMIT),
            whole("after", LARGEST, "Only those with a higher `id`: the last one of the page before.", default=0),
            *FILTERS,
        )
    },
    "/api/held-aggregates/retry-batch": decision(
        "retryHeldAggregates",
        "Try events that hold their aggregates now. One that holds nothing (any more) is left alone.",
        reply("What became of them.", ref("HeldDecidedBatch")),
        one=False,
    ),
    "/api/held-aggregates/skip-batch": decision(
        "skipHeldAggregates",
        "Let the later events of aggregates go out without those that hold them, of which copies are kept.",
        reply("What became of them.", ref("HeldDecidedBatch")),
        one=False,
        why=True,
    ),
    "/api/held-aggregates/{event_id}/retry": decision(
        "retryHeldAggregate",
        "Try the event that holds an aggregate now.",
        reply("It is tried now.", ref("Decided")),
        one=True,
        errors=("409",),
    ),
    "/api/held-aggregates/{event_id}/skip": decision(
        "skipHeldAggregate",
        "Let the later events of an aggregate go out without the one that holds it.",
        reply("It is skipped.", ref("Decided")),
        one=True,
        why=True,
        errors=("409",),
    ),
}
