-- settle_retry: settles rows of one claim that are tried again: they failed for a reason of their own, or their handler waits.
-- Parameters: claim_id, ids, delays (seconds, one a row), errors (one a row), costs (attempts that it costs, one a row: 1, or 0 for
--   a wait), now (NULL: the server's clock).
-- Returns: id of each row. A row that is missing was lost to another claim.
-- Loaded by: dispatcher/ops/trials.py, dispatcher/stages/settle.py
-- Index: message_outbox_pkey.
-- BETWEEN: see settle_sent.sql.
UPDATE ONLY messaging.message_outbox AS o
SET status = 'retry',
    attempts = o.attempts + s.cost,
    next_run_at = coalesce(%(now)s::timestamptz, clock_timestamp()) + make_interval(secs => s.delay_s),
    last_error = s.error,
    stream_id = NULL
FROM unnest(%(ids)s::bigint[], %(delays)s::double precision[], %(errors)s::text[], %(costs)s::integer[])
    AS s (id, delay_s, error, cost)
WHERE o.id BETWEEN s.id AND s.id
  AND o.claim_id = %(claim_id)s
  AND o.status = 'picked'
RETURNING o.id
