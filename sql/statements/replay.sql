-- replay: puts sent rows back to be claimed as if they were new, all due at once, so that they go out in the order of their ids.
-- Parameters: ids, marks (one a row, as replay_find found them), now (NULL: the server's clock).
-- Returns: id of each row. A row that is missing is not sent any more (replayed or pruned), was sent again since, or is locked.
-- Loaded by: dispatcher/ops/replay.py
-- Index: message_outbox_pkey.
-- picked_at stays: a row that was claimed before, and waits, was put back by a clock that was ahead (doctor_stranded.sql).
UPDATE ONLY messaging.message_outbox AS o
SET status = 'pending',
    attempts = 0,
    next_run_at = coalesce(%(now)s::timestamptz, statement_timestamp()),
    picked_by = NULL,
    claim_id = NULL,
    sent_at = NULL,
    stream_id = NULL,
    last_error = NULL
WHERE o.id = ANY (ARRAY(
    SELECT d.id
    FROM ONLY messaging.message_outbox AS d
    WHERE d.id = ANY (%(ids)s::bigint[])
      AND d.status = 'sent'
      AND (d.id, hash_record_extended(ROW(d.claim_id, d.sent_at), 0)) IN (SELECT * FROM unnest(%(ids)s::bigint[], %(marks)s::bigint[]))
    FOR UPDATE SKIP LOCKED
))
RETURNING o.id
