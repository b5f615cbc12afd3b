-- add_events: adds many events in one statement, in the transaction of the application. Needs INSERT, as the role outbox_producer has it.
-- Returns: nothing. Their ids are in the order of the array. A second event with the same event_id is refused as a duplicate key.
INSERT INTO messaging.message_outbox
    (event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, next_run_at)
SELECT
    CAST(e ->> 'event_id' AS uuid),
    CAST(e ->> 'message_id' AS uuid),
    e ->> 'event_type',
    e ->> 'aggregate_type',
    e ->> 'aggregate_id',
    e -> 'payload',
    e -> 'headers',
    coalesce(CAST(e ->> 'next_run_at' AS timestamptz), CAST('1970-01-01 00:00:00+00' AS timestamptz)) -- not scheduled: due at once
FROM jsonb_array_elements(CAST(CAST(%(events)s AS text) AS jsonb)) AS listed (e)
