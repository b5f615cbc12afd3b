-- held_retry: makes unsettled events that failed due at once, at their place; dead ones are dead_retry's.
-- Parameters: ids (of rows), event_ids, heads (true: also others that hold their aggregates; false: only those in status retry), by (a person) and reason, for their history; now (NULL: the server's clock).
-- Returns: id, event_id and whether it was done of each row. Not done: it is being published, or its handler runs. A row that is missing
--   does not hold its aggregate, or is not in status retry (any more).
-- Loaded by: dispatcher/ops/dead_letters/decide.py, dispatcher/ops/held/decide.py
-- Index: message_outbox_pkey, message_outbox_event_id_key.
-- One that was tried keeps its attempts, so it still holds its aggregate until it went out. One that a person parked becomes an event
-- that nobody scheduled, or the later ones would go first.
WITH wanted AS MATERIALIZED (
    SELECT o.id, o.event_id, o.status
    FROM ONLY messaging.message_outbox AS o
    WHERE o.id = ANY (%(ids)s::bigint[] || ARRAY(
        SELECT n.id FROM ONLY messaging.message_outbox AS n WHERE n.event_id = ANY (%(event_ids)s::uuid[])
    ))
      AND NOT o.settled
      AND (o.status = 'retry' OR (%(heads)s::boolean AND (o.attempts > 0 OR o.next_run_at = 'infinity')))
      AND (SELECT set_config('synchronous_commit', 'local', true)) IS NOT NULL
    ORDER BY o.id -- two that want the same rows must not wait for each other
    FOR UPDATE
),
due AS (
    UPDATE ONLY messaging.message_outbox AS o
    SET next_run_at = CASE
        WHEN o.attempts > 0 OR o.status = 'retry' THEN coalesce(%(now)s::timestamptz, statement_timestamp())
        ELSE '1970-01-01 00:00:00+00'
    END
    WHERE o.id = ANY (ARRAY(SELECT w.id FROM wanted AS w WHERE w.status IN ('retry', 'pending')))
    RETURNING o.id
),
noted AS (
    INSERT INTO messaging.message_history (outbox_id, at, what, actor, error)
    SELECT d.id, coalesce(%(now)s::timestamptz, statement_timestamp()), 'retried', %(by)s::text, %(reason)s::text
    FROM due AS d
)
SELECT w.id, w.event_id, w.id IN (SELECT d.id FROM due AS d)
FROM wanted AS w
