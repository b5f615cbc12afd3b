-- Who: stages/settle.py, for the rows of one claim that failed for a reason of their own. Index: message_outbox_pkey.
-- A row missing from the answer: the claim was lost; somebody else has the row or had it.
-- BETWEEN is = that can only be an index lookup: a plan made while the table was analyzed empty would join by reading all of it.
UPDATE messaging.message_outbox AS o
SET status = 'retry',
    attempts = o.attempts + 1,
    next_run_at = coalesce(%(now)s::timestamptz, clock_timestamp()) + make_interval(secs => s.delay_s),
    last_error = s.error,
    stream_id = NULL
FROM unnest(%(ids)s::bigint[], %(delays)s::double precision[], %(errors)s::text[]) AS s (id, delay_s, error)
WHERE o.id BETWEEN s.id AND s.id
  AND o.claim_id = %(claim_id)s
  AND o.status = 'picked'
RETURNING o.id
