-- add_events_in_order: as add_events, after it locked their aggregates until the end of the transaction: of writers that add events to one
--   aggregate at the same time, each gets its ids when the one before has committed. So the order of the ids is that of the commits.
-- Returns: nothing. Waits while another transaction that added events of these aggregates in order is open.
-- The locks are taken in one order, so that two that want the same ones never wait for each other. `locks`: [[aggregate_type, aggregate_id], ...].
WITH locked AS MATERIALIZED (
    SELECT count(*) AS many
    FROM (
        SELECT pg_advisory_xact_lock(k.key)
        FROM (
            SELECT DISTINCT hashtextextended((a ->> 0) || '/' || (a ->> 1), 1869968482) AS key
            FROM jsonb_array_elements(CAST(CAST(%(locks)s AS text) AS jsonb)) AS aggregates (a)
            ORDER BY 1
        ) AS k
    ) AS each
)
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
WHERE (SELECT l.many FROM locked AS l) >= 0 -- before the first id is taken
