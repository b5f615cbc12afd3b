-- held: reads a page of held aggregates: those whose later events wait for the one that comes first, their head.
-- Parameters: hold (whether a dead event holds the later ones of its aggregate), aggregate_type, aggregate_id, event_type (of the head),
--   last_error ('': without an error), error_code (as messaging.error_code makes it), error_like (contained, in any case), each NULL: any;
--   after_id (heads above this id), limit, bound (look at no more unsettled rows than this).
-- Returns: one row: how many aggregates match; the number of objects on the page; their JSON objects with commas between.
-- Loaded by: dispatcher/ops/held/find.py
-- Index: message_outbox_due_idx: what was scheduled or tried; where something is held, all that is unsettled, up to the bound, for it is
--   counted how much waits. message_outbox_dead_idx with `hold`. message_outbox_pkey and message_history_event_idx for the heads.
-- An unsettled row holds its aggregate when it was tried before, or when a person parked it (next_run_at infinity). A dead one does with
-- `hold`, here only if something waits behind it: else it is a dead letter like others.
-- CASE: a comparison with a list that was hashed; OFFSET 0: a lookup for each row. As joins they would be planned for a table that was
-- empty (decision 0012).
WITH candidate AS MATERIALIZED (
    SELECT o.id, o.aggregate_type, o.aggregate_id, false AS dead
    FROM (
        SELECT d.id, d.aggregate_type, d.aggregate_id, d.attempts, d.status, d.next_run_at, d.event_type
        FROM ONLY messaging.message_outbox AS d
        WHERE NOT d.settled
          AND d.next_run_at > '1970-01-01 00:00:00+00'
        ORDER BY d.next_run_at, d.id
        LIMIT %(bound)s::bigint
    ) AS o
    WHERE (o.attempts > 0 OR o.status = 'retry' OR o.next_run_at = 'infinity')
      AND o.event_type <> 'dispatcher.prove'
      AND (%(aggregate_type)s::text IS NULL OR o.aggregate_type = %(aggregate_type)s)
      AND (%(aggregate_id)s::text IS NULL OR o.aggregate_id = %(aggregate_id)s)
    UNION ALL
    SELECT d.id, d.aggregate_type, d.aggregate_id, true
    FROM ONLY messaging.message_outbox AS d
    WHERE %(hold)s::boolean
      AND d.settled
      AND d.sent_at IS NULL
      AND d.status = 'dead'
      AND (%(aggregate_type)s::text IS NULL OR d.aggregate_type = %(aggregate_type)s)
      AND (%(aggregate_id)s::text IS NULL OR d.aggregate_id = %(aggregate_id)s)
),
line AS (
    SELECT c.id, c.aggregate_type, c.aggregate_id, true AS holds, c.dead FROM candidate AS c
    UNION ALL
    SELECT w.id, w.aggregate_type, w.aggregate_id, false, false
    FROM (
        SELECT d.id, d.aggregate_type, d.aggregate_id
        FROM ONLY messaging.message_outbox AS d
        WHERE NOT d.settled
        ORDER BY d.next_run_at, d.id
        LIMIT %(bound)s::bigint
    ) AS w
    WHERE EXISTS (SELECT FROM candidate)
      AND CASE WHEN (w.aggregate_type, w.aggregate_id) IN (SELECT c.aggregate_type, c.aggregate_id FROM candidate AS c) THEN true ELSE false END
),
placed AS (
    SELECT l.id, l.holds, l.dead, min(l.id) FILTER (WHERE l.holds) OVER (PARTITION BY l.aggregate_type, l.aggregate_id) AS head
    FROM line AS l
),
head AS MATERIALIZED (
    SELECT p.head AS id, count(*) FILTER (WHERE NOT p.holds AND p.id > p.head) AS waiting
    FROM placed AS p
    GROUP BY p.head
    HAVING NOT bool_or(p.dead AND p.id = p.head) OR bool_or(NOT p.holds AND p.id > p.head)
),
found AS MATERIALIZED (
    SELECT h.id, h.waiting
    FROM head AS h
    CROSS JOIN LATERAL (
        SELECT d.event_type, d.last_error FROM ONLY messaging.message_outbox AS d WHERE d.id = h.id OFFSET 0
    ) AS o
    WHERE (%(event_type)s::text IS NULL OR o.event_type = %(event_type)s)
      AND (%(last_error)s::text IS NULL OR coalesce(o.last_error, '') = %(last_error)s)
      AND (%(error_code)s::text IS NULL OR messaging.error_code(o.last_error) = %(error_code)s)
      AND (%(error_like)s::text IS NULL OR position(lower(%(error_like)s::text) IN lower(o.last_error)) > 0)
),
page AS MATERIALIZED (
    SELECT f.id, f.waiting
    FROM found AS f
    WHERE f.id > %(after_id)s::bigint
    ORDER BY f.id
    LIMIT %(limit)s::bigint
)
SELECT
    (SELECT count(*) FROM found),
    (SELECT count(*) FROM page),
    (
        SELECT string_agg(
            json_build_object(
                'id', o.id,
                'event_id', o.event_id,
                'event_type', left(o.event_type, 1000),
                'aggregate_type', left(o.aggregate_type, 1000),
                'aggregate_id', left(o.aggregate_id, 1000),
                'state', CASE
                    WHEN o.status = 'dead' THEN 'dead'
                    WHEN o.status = 'picked' THEN 'in_flight'
                    WHEN o.next_run_at = 'infinity' THEN 'parked'
                    ELSE 'retry'
                END,
                'attempts', o.attempts,
                'last_error', o.last_error,
                'waiting', p.waiting,
                'since', to_char(coalesce(s.since, o.picked_at, o.occurred_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                'next_attempt_at', CASE
                    WHEN o.status IN ('retry', 'pending') AND o.next_run_at < 'infinity'
                    THEN to_char(o.next_run_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                END
            )::text,
            ',' ORDER BY o.id
        )
        FROM page AS p
        CROSS JOIN LATERAL (
            SELECT b.id, b.event_id, b.event_type, b.aggregate_type, b.aggregate_id, b.status, b.next_run_at, b.attempts, b.last_error,
                   b.picked_at, b.occurred_at
            FROM ONLY messaging.message_outbox AS b
            WHERE b.id = p.id
            OFFSET 0
        ) AS o
        CROSS JOIN LATERAL (
            SELECT min(h.at) AS since
            FROM ONLY messaging.message_history AS h
            WHERE h.outbox_id = o.id
              AND h.what IN ('failed', 'died')
              -- It was dead, and the others went on until somebody retried it.
              AND h.at > coalesce((
                  SELECT max(r.at)
                  FROM ONLY messaging.message_history AS r
                  WHERE r.outbox_id = o.id AND r.what = 'died' AND o.status <> 'dead' AND NOT %(hold)s::boolean
              ), '-infinity')
        ) AS s
    )
