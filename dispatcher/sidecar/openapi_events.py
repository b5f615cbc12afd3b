"""The part of the OpenAPI document that is about all events, the pause and the consumer groups."""

from dispatcher.ops.dead_letters.find import PAGE
from dispatcher.ops.outbox_events import COUNTED, KEY, STATUSES
from dispatcher.sidecar.dead_letters import LIMIT
from dispatcher.sidecar.openapi_parts import (
    BY,
    COUNT,
    FILTERS,
    NUMBER,
    OR_NULL,
    PAYLOAD,
    REASON,
    TEXT,
    TIME,
    TIME_OR_NULL,
    UUID,
    WITH_PAYLOAD,
    Json,
    body,
    decision,
    in_query,
    listing,
    object_,
    operation,
    read,
    ref,
    reply,
    whole,
)
from dispatcher.sidecar.outbox_events import LONGEST

EVENT: dict[str, Json] = {
    "id": NUMBER,
    "event_id": UUID,
    "message_id": UUID,
    "event_type": TEXT,
    "aggregate_type": TEXT,
    "aggregate_id": TEXT,
    "status": {
        "type": "string",
        "enum": [*STATUSES],
        "description": "scheduled: pending, and due later. discarded: a person decided that nobody needs it.",
    },
    "attempts": {**COUNT, "description": "Attempts that failed."},
    "due_at": {**TIME_OR_NULL, "description": "Null: at once, it is not due any more, or it is parked (scheduled)."},
    "occurred_at": TIME,
    "picked_at": {**TIME_OR_NULL, "description": "When it was claimed last."},
    "picked_by": {**OR_NULL, "description": "The dispatcher that claimed it last, while it runs."},
    "sent_at": TIME_OR_NULL,
    "stream_id": {**OR_NULL, "description": "Sent: the id of its entry; null: a handler did it."},
    "last_error": OR_NULL,
    "in_outbox": {"type": "boolean", "description": "False: the row is gone, a copy is what is left."},
}
DISCARDED = object_({"at": TIME, "by": OR_NULL, "reason": OR_NULL})
ATTEMPTS: Json = {**COUNT, "description": "DISPATCH_MAX_ATTEMPTS of this dispatcher."}
STEP = object_(
    {
        "at": TIME,
        "what": {"type": "string", "enum": ["failed", "died", "retried", "discarded", "skipped"]},
        "attempt": {"type": ["integer", "null"], "description": "Number of the attempt that failed."},
        "by": {**OR_NULL, "description": "The dispatcher that tried, or the person."},
        "error": {**OR_NULL, "description": "The error, or the reason that the person gave."},
        "where": {**OR_NULL, "description": "File and line of the handler that raised."},
    }
)
EVENT_SCHEMAS: dict[str, Json] = {
    "Event": object_(
        EVENT
        | {"discarded": {**DISCARDED, "description": "Only with status=discarded: who decided it, when, and why."}},
        optional=("discarded",),
    ),
    "EventPage": object_(
        {
            "events": listing(ref("Event")),
            "next": {
                **OR_NULL,
                "description": "The `after` of the next page, which may be there even when this one is empty.",
            },
            "max_attempts": ATTEMPTS,
        }
    ),
    "EventWithHistory": object_(
        {
            "max_attempts": ATTEMPTS,
            **EVENT,
            "died_at": TIME_OR_NULL,
            "replay_count": COUNT,
            "discarded": {"anyOf": [DISCARDED, {"type": "null"}]},
            "history": {
                **listing(STEP),
                "description": "What went wrong and what people decided, the newest first, at most 20.",
            },
            **WITH_PAYLOAD,
        },
        optional=tuple(WITH_PAYLOAD),
    ),
    "EventCounts": object_(
        dict.fromkeys(("pending", "scheduled", "picked", "retry", "dead"), COUNT)
        | {"complete": {"type": "boolean", "description": f"False: more than {COUNTED:,} were not counted."}}
    ),
    "Pause": object_(
        {
            "paused": {"type": "boolean"},
            "by": OR_NULL,
            "reason": OR_NULL,
            "since": {**TIME_OR_NULL, "description": "Null: it was never switched."},
            "changed": {"type": "boolean", "description": "False: it was so already."},
        },
        optional=("changed",),
    ),
    "Streams": object_(
        {
            "streams": listing(
                object_(
                    {
                        "stream": TEXT,
                        "length": {**COUNT, "description": "Entries."},
                        "maxlen": {"type": ["integer", "null"], "description": "From so many entries on Redis trims."},
                        "groups": listing(
                            object_(
                                {
                                    "name": TEXT,
                                    "lag": {**COUNT, "description": "Entries that it has yet to read."},
                                    "pending": {**COUNT, "description": "Entries read and not acknowledged."},
                                    "consumers": COUNT,
                                    "last_read_age_s": {
                                        "type": ["number", "null"],
                                        "description": "Seconds since it was read; null: nobody has ever read.",
                                    },
                                    "exempt": {
                                        "type": "boolean",
                                        "description": "Holds nothing back (DISPATCH_BACKPRESSURE_EXCEPT).",
                                    },
                                    "dead": {
                                        "type": ["integer", "null"],
                                        "minimum": 0,
                                        "description": "Entries that its consumers put away; null: not known.",
                                    },
                                    "dead_error": {**OR_NULL, "description": "Of the entry that was put away last."},
                                    "reader": {**OR_NULL, "description": "Its consumer that read last."},
                                    "not_on": {
                                        **listing(TEXT),
                                        "description": "Shards that it is not on, while it is on others.",
                                    },
                                }
                            )
                        ),
                    }
                )
            ),
            "problem": {**OR_NULL, "description": "Why streams are missing: a node of a Cluster does not answer."},
        }
    ),
}
MORE = [
    whole("limit", PAGE, "The page has at most this many events.", least=1, default=LIMIT),
    in_query("after", {**TEXT, "pattern": f"^({KEY})?$"}, "`next` of the page before."),
]
SWITCH_BODY = body({"reason": REASON, "by": BY}, optional=("reason", "by"), required=False)
EVENT_PATHS: dict[str, Json] = {
    "/api/events": {
        "get": read(
            "listEvents",
            "Events by status: unsettled ones, the first due first; dead and sent ones, the last inserted first; "
            "discarded ones, the last died first.",
            "A page of them.",
            ref("EventPage"),
            in_query(
                "status",
                {"type": "string", "enum": [*STATUSES]},
                "Only of this status; without it all that are not settled.",
            ),
            *FILTERS,
            *MORE,
        )
    },
    "/api/events/find": {
        "get": read(
            "findEvents",
            "Events by any of their names, whatever became of them.",
            "A page of them.",
            ref("EventPage"),
            {
                **in_query(
                    "q",
                    {"type": "string", "minLength": 1, "maxLength": LONGEST},
                    "The number of the row, an event_id, a message_id, an aggregate_id or type/aggregate_id.",
                ),
                "required": True,
            },
            *MORE,
        )
    },
    "/api/events/counts": {
        "get": read("countEvents", "How many events are not sent, by status.", "The counts.", ref("EventCounts"))
    },
    "/api/events/{event_id}": {
        "get": read(
            "getEvent",
            "One event, whatever became of it, and its history.",
            "The event.",
            ref("EventWithHistory"),
            PAYLOAD,
            one=True,
        )
    },
    "/api/events/{event_id}/retry": decision(
        "retryEvent",
        "Put a dead event back to be published as if it were new, or try one that is in status retry now, with the "
        "attempts that it has left. Any other is left alone.",
        reply("It goes out again, or is tried now.", ref("Decided")),
        one=True,
    ),
    "/api/pause": {
        "get": read("getPause", "Whether all dispatchers are paused.", "The switch.", ref("Pause")),
        "post": operation(
            "pause",
            "Stop all dispatchers from claiming rows; it does not wait until they have stopped.",
            reply("The switch.", ref("Pause")),
            ("400", "408", "413", "415", "503"),
            requestBody=SWITCH_BODY,
        ),
    },
    "/api/resume": {
        "post": operation(
            "resume",
            "End a pause.",
            reply("The switch.", ref("Pause")),
            ("400", "408", "413", "415", "503"),
            requestBody=SWITCH_BODY,
        )
    },
    "/api/groups": {
        "get": read(
            "listGroups",
            "The consumer groups of the stream, those that lag most first. Asks Redis.",
            "One stream, or none where no event goes to a stream.",
            ref("Streams"),
        )
    },
}
