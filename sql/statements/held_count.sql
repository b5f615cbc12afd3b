-- held_count: counts held aggregates, for the gauges and `status`; held.sql says what they are.
-- Parameters: hold (whether a dead event holds the later ones of its aggregate), bound (look at no more unsettled rows than this).
-- Returns: one row: held aggregates; how many of them a dead event holds; seconds that the oldest of them is held (0: none is); the
--   error of the one that is held longest (NULL: none, or it has none).
-- Loaded by: dispatcher/ops/held/find.py
-- Index: message_outbox_due_idx: what was scheduled or tried, up to the bound; message_history_event_idx. With `hold`, and dead events,
--   message_outbox_dead_idx and all that is unsettled, up to the bound.
-- The age is judged on the hundred aggregates whose heads have the lowest ids: their history is read.
WITH tried AS MATERIALIZED (
    SELECT o.id, o.aggregate_type, o.aggregate_id, o.last_error, o.picked_at, o.occurred_at
    FROM (
        SELECT d.id, d.aggregate_type, d.aggregate_id, d.attempts, d.status, d.next_run_at, d.event_type, d.last_error, d.picked_at, d.occurred_at
        FROM ONLY messaging.message_outbox AS d
        WHERE NOT d.settled
          AND d.next_run_at > '1970-01-01 00:00:00+00'
        ORDER BY d.next_run_at, d.id
        LIMIT %(bound)s::bigint
    ) AS o
    WHERE (o.attempts > 0 OR o.status = 'retry' OR o.next_run_at = 'infinity')
      AND o.event_type <> 'dispatcher.prove'
),
dead AS MATERIALIZED (
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.last_error, d.picked_at, d.occurred_at
    FROM ONLY messaging.message_outbox AS d
    WHERE %(hold)s::boolean
      AND d.settled
      AND d.sent_at IS NULL
      AND d.status = 'dead'
),
later AS ( -- of the aggregates with a dead event, the last one that waits
    SELECT w.aggregate_type, w.aggregate_id, max(w.id) AS id
    FROM (
        SELECT d.id, d.aggregate_type, d.aggregate_id
        FROM ONLY messaging.message_outbox AS d
        WHERE NOT d.settled
        ORDER BY d.next_run_at, d.id
        LIMIT %(bound)s::bigint
    ) AS w
    WHERE EXISTS (SELECT FROM dead)
      -- CASE: see held.sql.
      AND CASE WHEN (w.aggregate_type, w.aggregate_id) IN (SELECT d.aggregate_type, d.aggregate_id FROM dead AS d) THEN true ELSE false END
    GROUP BY w.aggregate_type, w.aggregate_id
),
line AS (
    SELECT t.id, t.aggregate_type, t.aggregate_id, t.last_error, t.picked_at, t.occurred_at, false AS dead, NULL::bigint AS last FROM tried AS t
    UNION ALL
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.last_error, d.picked_at, d.occurred_at, true, NULL FROM dead AS d
    UNION ALL
    SELECT NULL, l.aggregate_type, l.aggregate_id, NULL, NULL, NULL, NULL, l.id FROM later AS l
),
held AS MATERIALIZED (
    SELECT
        (array_agg(l.id ORDER BY l.id) FILTER (WHERE l.id IS NOT NULL))[1] AS id,
        (array_agg(l.dead ORDER BY l.id) FILTER (WHERE l.id IS NOT NULL))[1] AS dead,
        (array_agg(l.last_error ORDER BY l.id) FILTER (WHERE l.id IS NOT NULL))[1] AS last_error,
        (array_agg(coalesce(l.picked_at, l.occurred_at) ORDER BY l.id) FILTER (WHERE l.id IS NOT NULL))[1] AS tried_at
    FROM line AS l
    GROUP BY l.aggregate_type, l.aggregate_id
    HAVING bool_or(l.id IS NOT NULL AND NOT l.dead) OR max(l.last) > min(l.id)
),
aged AS (
    SELECT h.dead, h.last_error, coalesce(s.since, h.tried_at) AS since
    FROM (SELECT a.* FROM held AS a ORDER BY a.id LIMIT 100) AS h
    CROSS JOIN LATERAL (
        SELECT min(n.at) AS since
        FROM ONLY messaging.message_history AS n
        WHERE n.outbox_id = h.id
          AND n.what IN ('failed', 'died')
          AND n.at > coalesce((
              SELECT max(r.at)
              FROM ONLY messaging.message_history AS r
              WHERE r.outbox_id = h.id AND r.what = 'died' AND NOT h.dead AND NOT %(hold)s::boolean
          ), '-infinity')
    ) AS s
)
SELECT
    (SELECT count(*) FROM held),
    (SELECT count(*) FROM held AS h WHERE h.dead),
    greatest(coalesce(max(date_part('epoch', clock_timestamp() - least(greatest(a.since, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00'))), 0), 0),
    (array_agg(a.last_error ORDER BY a.since))[1]
FROM aged AS a
