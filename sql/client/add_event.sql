-- add_event: adds one event to the outbox, in the transaction of the application. Needs INSERT, as the role outbox_producer has it.
-- Returns: nothing. A second event with the same event_id is refused as a duplicate key.
-- As text first, here and in the other files: where an application has a codec of its own for jsonb, asyncpg would encode our JSON text
-- once more, and the event would be one string.
INSERT INTO messaging.message_outbox
    (event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, next_run_at)
VALUES (
    CAST(CAST(%(event_id)s AS text) AS uuid),
    CAST(CAST(%(message_id)s AS text) AS uuid),
    %(event_type)s,
    %(aggregate_type)s,
    %(aggregate_id)s,
    CAST(CAST(%(payload)s AS text) AS jsonb),
    CAST(CAST(%(headers)s AS text) AS jsonb),
    coalesce(CAST(%(next_run_at)s AS timestamptz), CAST('1970-01-01 00:00:00+00' AS timestamptz)) -- not scheduled: due at once
)
