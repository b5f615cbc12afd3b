-- settle_retry: settles rows of one claim that are tried again: they failed for a reason of their own, or they wait (core/outcome.py: Waits).
--   A failed attempt is noted in the event's history.
-- Parameters: claim_id, ids, delays (seconds, one a row), errors (one a row), costs (attempts that it costs, one a row: 1, or 0 for
--   a wait), places (file and line of the handler that raised, one a row, or NULL), now (NULL: the server's clock).
-- Returns: id of each row. A row that is missing is another claim's, was settled by an earlier try, or bears our claim still: a trigger undid it.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/stages/settle.py
-- Index: message_outbox_pkey, message_history_event_idx.
-- BETWEEN: see settle_sent.sql.
WITH failed AS (
    UPDATE ONLY messaging.message_outbox AS o
    SET status = 'retry',
        attempts = o.attempts + s.cost,
        next_run_at = coalesce(%(now)s::timestamptz, clock_timestamp()) + make_interval(secs => s.delay_s),
        last_error = s.error,
        stream_id = NULL
    FROM unnest(%(ids)s::bigint[], %(delays)s::double precision[], %(errors)s::text[], %(costs)s::integer[], %(places)s::text[])
        AS s (id, delay_s, error, cost, place)
    WHERE o.id BETWEEN s.id AND s.id
      AND o.claim_id = %(claim_id)s
      AND o.status = 'picked'
    RETURNING o.id, o.attempts, o.picked_by, s.error, s.cost, s.place
),
noted AS (
    INSERT INTO messaging.message_history (outbox_id, at, what, attempt, actor, error, place)
    SELECT f.id, coalesce(%(now)s::timestamptz, clock_timestamp()), 'failed', f.attempts,
           (SELECT d.name FROM ONLY messaging.dispatcher AS d WHERE d.id = f.picked_by), f.error, f.place
    FROM failed AS f
    WHERE f.cost > 0
),
forgotten AS (
    DELETE FROM ONLY messaging.message_history AS h
    WHERE h.ctid = ANY (ARRAY(
        SELECT old.ctid
        FROM failed AS f
        CROSS JOIN LATERAL (
            SELECT n.ctid FROM ONLY messaging.message_history AS n WHERE n.outbox_id = f.id ORDER BY n.at DESC OFFSET 19
        ) AS old
        WHERE f.cost > 0
    ))
)
SELECT f.id FROM failed AS f
