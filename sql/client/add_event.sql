-- add_event: adds one event to the outbox, in the transaction of the application. Needs INSERT, as the role outbox_producer has it.
-- Returns: nothing. A second event with the same event_id is refused as a duplicate key.
INSERT INTO messaging.message_outbox
    (event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, next_run_at)
VALUES (
    CAST(%(event_id)s AS uuid),
    CAST(%(message_id)s AS uuid),
    %(event_type)s,
    %(aggregate_type)s,
    %(aggregate_id)s,
    CAST(%(payload)s AS jsonb),
    CAST(%(headers)s AS jsonb),
    coalesce(CAST(%(next_run_at)s AS timestamptz), CAST('1970-01-01 00:00:00+00' AS timestamptz)) -- not scheduled: due at once
)
