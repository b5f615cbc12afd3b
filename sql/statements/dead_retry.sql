-- dead_retry: puts dead events back to be claimed as if they were new, due at once, in the order of their ids, and closes their
--   copies.
-- Parameters: ids (of rows), event_ids, by (a person) and reason, for their history; now (NULL: the server's
--   clock).
-- Returns: id and event_id of each row. A row that is missing was replayed by somebody else (a lock is waited for), or pruned:
--   dead_retry_copy looks for those.
-- Loaded by: dispatcher/client/django/models.py, dispatcher/ops/dead_letters/decide.py, dispatcher/ops/trial_list.py
-- Index: message_outbox_pkey, message_outbox_event_id_key, message_dlq_open_key.
-- With DISPATCH_ORDER=aggregate it becomes an event that nobody scheduled, or the later ones of its aggregate would go first.
-- A person waits for the answer, so the commit is flushed to disk, unlike the relay's.
WITH wanted AS MATERIALIZED (
    SELECT o.id
    FROM ONLY messaging.message_outbox AS o
    WHERE o.id = ANY (%(ids)s::bigint[] || ARRAY(
        SELECT n.id FROM ONLY messaging.message_outbox AS n WHERE n.event_id = ANY (%(event_ids)s::uuid[])
    ))
      AND o.status = 'dead'
      AND (SELECT set_config('synchronous_commit', 'local', true)) IS NOT NULL
    ORDER BY o.id -- two that want the same rows must not wait for each other
    FOR UPDATE
),
back AS (
    UPDATE ONLY messaging.message_outbox AS o
    SET status = 'pending',
        attempts = 0,
        next_run_at = coalesce(
            (SELECT '1970-01-01 00:00:00+00'::timestamptz FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order' = 'aggregate'),
            %(now)s::timestamptz,
            statement_timestamp()
        ),
        picked_at = NULL,
        picked_by = NULL,
        claim_id = NULL,
        sent_at = NULL,
        stream_id = NULL,
        last_error = NULL
    WHERE o.id = ANY (ARRAY(SELECT w.id FROM wanted AS w))
    RETURNING o.id, o.event_id
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
