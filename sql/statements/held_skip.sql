-- held_skip: lets the later events of aggregates go out without the ones that hold them: deletes their rows, keeps their copies as
--   discarded, and notes who decided it and why.
-- Parameters: ids (of rows), event_ids, hold (whether a dead event holds the later ones of its aggregate), by (a person) and reason, for
--   their history; now (NULL: the server's clock).
-- Returns: id, event_id and whether it was done of each row. Not done: it is being published, or its handler runs. A row that is missing
--   does not hold its aggregate (any more).
-- Loaded by: dispatcher/ops/held/decide.py
-- Index: message_outbox_pkey, message_outbox_event_id_key, message_dlq_open_key, message_dlq_event_id_idx.
-- One statement: there is no moment at which the event is dead and nobody has said why. The copy keeps payload and all, until its
-- retention ends. A person waits for the answer, so the commit is flushed to disk.
WITH wanted AS MATERIALIZED (
    SELECT o.id, o.event_id, o.status
    FROM ONLY messaging.message_outbox AS o
    WHERE o.id = ANY (%(ids)s::bigint[] || ARRAY(
        SELECT n.id FROM ONLY messaging.message_outbox AS n WHERE n.event_id = ANY (%(event_ids)s::uuid[])
    ))
      AND CASE
          WHEN o.settled THEN o.status = 'dead' AND %(hold)s::boolean
          ELSE o.attempts > 0 OR o.status = 'retry' OR o.next_run_at = 'infinity'
      END
      AND (SELECT set_config('synchronous_commit', 'local', true)) IS NOT NULL
    ORDER BY o.id -- two that want the same rows must not wait for each other
    FOR UPDATE
),
gone AS (
    DELETE FROM ONLY messaging.message_outbox AS o
    WHERE o.id = ANY (ARRAY(SELECT w.id FROM wanted AS w WHERE w.status <> 'picked'))
    RETURNING o.*
),
closed AS (
    UPDATE ONLY messaging.message_dlq AS d
    SET replayed_at = coalesce(%(now)s::timestamptz, statement_timestamp()),
        discarded_at = coalesce(%(now)s::timestamptz, statement_timestamp())
    WHERE d.outbox_id = ANY (ARRAY(SELECT g.id FROM gone AS g))
      AND d.replayed_at IS NULL
    RETURNING d.outbox_id
),
kept AS (
    -- One that was never dead, or was marked dead by hand, has no open copy.
    INSERT INTO messaging.message_dlq
        (id, outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,
         payload, headers, attempts, last_error, occurred_at, replayed_at, discarded_at, replay_count)
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 2048 - 9223372036854775807 + row_number() OVER (), -- see settle_dead.sql
           g.id, g.event_id, g.message_id, g.event_type, g.aggregate_type, g.aggregate_id,
           g.payload, g.headers, g.attempts, g.last_error, g.occurred_at,
           coalesce(%(now)s::timestamptz, statement_timestamp()), coalesce(%(now)s::timestamptz, statement_timestamp()),
           coalesce((SELECT max(c.replay_count) FROM ONLY messaging.message_dlq AS c WHERE c.event_id = g.event_id AND c.outbox_id = g.id), 0)
    FROM gone AS g
    WHERE g.id NOT IN (SELECT c.outbox_id FROM closed AS c)
),
noted AS (
    INSERT INTO messaging.message_history (outbox_id, at, what, actor, error)
    SELECT g.id, coalesce(%(now)s::timestamptz, statement_timestamp()), 'skipped', %(by)s::text, %(reason)s::text
    FROM gone AS g
)
SELECT w.id, w.event_id, w.id IN (SELECT g.id FROM gone AS g)
FROM wanted AS w
