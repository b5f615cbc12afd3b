-- Who: ops/dead_letters/retry.py, after dead_retry, for what that did not find. Index: message_dlq_open_key, message_dlq_event_id_idx.
-- Puts events whose rows were pruned back into the outbox from their open copies, with the ids and the time of occurrence they had,
-- due at once, and closes the copies.
-- A row missing from the answer: no open copy (replayed by somebody else, also a moment ago: the lock is waited for), or there is a
-- row, which says whether the event is dead: not touched, nor is its copy.
WITH wanted AS MATERIALIZED (
    SELECT d.*
    FROM messaging.message_dlq AS d
    WHERE d.outbox_id = ANY (%(ids)s::bigint[] || ARRAY(
        SELECT n.outbox_id FROM messaging.message_dlq AS n WHERE n.event_id = ANY (%(event_ids)s::uuid[])
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
           w.occurred_at, coalesce(%(now)s::timestamptz, statement_timestamp())
    FROM wanted AS w
    ORDER BY w.outbox_id
    ON CONFLICT DO NOTHING -- by id: there is a row; by event_id: its producer inserted it anew
    RETURNING id, event_id
),
closed AS (
    UPDATE messaging.message_dlq AS d
    SET replayed_at = coalesce(%(now)s::timestamptz, statement_timestamp()), replay_count = d.replay_count + 1
    WHERE d.outbox_id = ANY (ARRAY(SELECT b.id FROM back AS b))
      AND d.replayed_at IS NULL
)
SELECT b.id, b.event_id
FROM back AS b
