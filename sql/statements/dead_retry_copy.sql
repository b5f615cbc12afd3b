-- dead_retry_copy: puts dead events whose rows were pruned back into the outbox, from their open copies, due at once, and closes
--   the copies.
-- Parameters: ids (of the rows that were), event_ids, by (a person) and reason, for their history; now (NULL: the server's
--   clock).
-- Returns: id and event_id of each row. An event that is missing has no open copy (somebody else replayed it; a lock is waited
--   for), or it has a row, which says whether it is dead: neither is changed.
-- Loaded by: dispatcher/client/django/models.py, dispatcher/ops/dead_letters/decide.py
-- Index: message_dlq_open_key, message_dlq_event_id_idx.
-- With DISPATCH_ORDER=aggregate they become events that nobody scheduled, see dead_retry.sql.
-- The events keep their ids and the time at which they occurred.
WITH wanted AS MATERIALIZED (
    SELECT d.*
    FROM ONLY messaging.message_dlq AS d
    WHERE d.outbox_id = ANY (%(ids)s::bigint[] || ARRAY(
        SELECT n.outbox_id FROM ONLY messaging.message_dlq AS n WHERE n.event_id = ANY (%(event_ids)s::uuid[])
    ))
      AND d.replayed_at IS NULL
      AND (SELECT set_config('synchronous_commit', 'local', true)) IS NOT NULL
    ORDER BY d.outbox_id -- two that want the same copies must not wait for each other
    FOR UPDATE
),
back AS (
    INSERT INTO messaging.message_outbox
        (id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, occurred_at, next_run_at)
    SELECT w.outbox_id, w.event_id, w.message_id, w.event_type, w.aggregate_type, w.aggregate_id, w.payload, w.headers,
           w.occurred_at, coalesce(
               (SELECT '1970-01-01 00:00:00+00'::timestamptz FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order' = 'aggregate'),
               %(now)s::timestamptz,
               statement_timestamp()
           )
    FROM wanted AS w
    ORDER BY w.outbox_id
    ON CONFLICT DO NOTHING -- by id: there is a row; by event_id: its producer inserted it anew
    RETURNING id, event_id
),
closed AS (
    UPDATE ONLY messaging.message_dlq AS d
    SET replayed_at = coalesce(%(now)s::timestamptz, statement_timestamp()), replay_count = d.replay_count + 1
    WHERE d.outbox_id = ANY (ARRAY(SELECT b.id FROM back AS b))
      AND d.replayed_at IS NULL
),
noted AS (
    INSERT INTO messaging.message_history (outbox_id, at, what, actor, error)
    SELECT b.id, coalesce(%(now)s::timestamptz, statement_timestamp()), 'retried', %(by)s::text, %(reason)s::text
    FROM back AS b
)
SELECT b.id, b.event_id
FROM back AS b
