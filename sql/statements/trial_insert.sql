-- trial_insert: inserts the row that the trials work on, in a transaction that is rolled back.
-- Parameters: id, event_id, due (a time at which nothing else is due).
-- Returns: id. No row: a trigger kept it out.
-- Loaded by: dispatcher/ops/trial_list.py
-- Index: message_outbox_pkey, its end.
-- It is like the newest small row, so that constraints and triggers of others take it as they took that one.
INSERT INTO messaging.message_outbox
    (id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, occurred_at, next_run_at)
SELECT %(id)s, %(event_id)s::uuid, gen_random_uuid(), t.event_type, t.aggregate_type, t.aggregate_id, t.payload, t.headers,
       clock_timestamp(), %(due)s::timestamptz
FROM (
    SELECT 1 AS choice, n.event_type, n.aggregate_type, n.aggregate_id, n.payload, n.headers
    FROM (SELECT * FROM ONLY messaging.message_outbox AS o ORDER BY o.id DESC LIMIT 20) AS n
    WHERE pg_column_size(n.payload) < 2000
      AND n.event_type <> 'dispatcher.prove' -- no claim takes it
    UNION ALL
    SELECT 2, 'dispatcher.trial', 'dispatcher', 'trial', '{}'::jsonb, NULL::jsonb
    ORDER BY choice
    LIMIT 1
) AS t
RETURNING id
