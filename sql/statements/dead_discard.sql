-- dead_discard: ends dead events that nobody needs: deletes their rows, closes their copies (or makes closed ones), and notes who
--   decided it and why.
-- Parameters: ids (of rows), event_ids, by (a person) and reason, for their history; now (NULL: the server's clock).
-- Returns: id and event_id of each event. One that is missing is not dead (any more).
-- Loaded by: dispatcher/client/django/models.py, dispatcher/ops/dead_letters/decide.py
-- Index: message_outbox_pkey, message_outbox_event_id_key, message_dlq_open_key, message_dlq_event_id_idx.
-- The copy keeps payload and all, until its retention ends. A person waits for the answer, so the commit is flushed to disk.
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
copies AS MATERIALIZED (
    SELECT d.id, d.outbox_id, d.event_id
    FROM ONLY messaging.message_dlq AS d
    WHERE d.outbox_id = ANY (%(ids)s::bigint[] || ARRAY(
        SELECT n.outbox_id FROM ONLY messaging.message_dlq AS n WHERE n.event_id = ANY (%(event_ids)s::uuid[])
    ))
      AND d.replayed_at IS NULL
      AND (
          d.outbox_id IN (SELECT w.id FROM wanted AS w)
          OR (
              NOT EXISTS (SELECT FROM ONLY messaging.message_outbox AS o WHERE o.id = d.outbox_id)
              AND NOT EXISTS (SELECT FROM ONLY messaging.message_outbox AS again WHERE again.event_id = d.event_id)
          )
      )
    ORDER BY d.outbox_id
    FOR UPDATE
),
gone AS (
    DELETE FROM ONLY messaging.message_outbox AS o
    WHERE o.id = ANY (ARRAY(SELECT w.id FROM wanted AS w))
    RETURNING o.*
),
closed AS (
    UPDATE ONLY messaging.message_dlq AS d
    SET replayed_at = coalesce(%(now)s::timestamptz, statement_timestamp()),
        discarded_at = coalesce(%(now)s::timestamptz, statement_timestamp())
    WHERE d.id = ANY (ARRAY(SELECT c.id FROM copies AS c))
      AND d.replayed_at IS NULL
    RETURNING d.outbox_id, d.event_id
),
kept AS (
    -- A row that was marked dead by hand has no copy yet.
    INSERT INTO messaging.message_dlq
        (id, outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,
         payload, headers, attempts, last_error, occurred_at, replayed_at, discarded_at)
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 2048 - 9223372036854775807 + row_number() OVER (), -- see settle_dead.sql
           g.id, g.event_id, g.message_id, g.event_type, g.aggregate_type, g.aggregate_id,
           g.payload, g.headers, g.attempts, g.last_error, g.occurred_at,
           coalesce(%(now)s::timestamptz, statement_timestamp()), coalesce(%(now)s::timestamptz, statement_timestamp())
    FROM gone AS g
    WHERE NOT EXISTS (SELECT FROM copies AS c WHERE c.outbox_id = g.id)
),
ended AS (
    SELECT g.id, g.event_id FROM gone AS g
    UNION
    SELECT c.outbox_id, c.event_id FROM closed AS c
),
noted AS (
    INSERT INTO messaging.message_history (outbox_id, at, what, actor, error)
    SELECT e.id, coalesce(%(now)s::timestamptz, statement_timestamp()), 'discarded', %(by)s::text, %(reason)s::text
    FROM ended AS e
)
SELECT e.id, e.event_id FROM ended AS e
