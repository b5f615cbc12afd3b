-- Who: ops/replay.py, for each batch of a replay. Index: message_outbox_pkey.
-- Puts sent rows back to be claimed as if they were new: all of a batch due at once, so that they go out in the order of their ids.
-- A row missing from the answer: not sent any more (replayed by somebody else, pruned), sent again since it was found, or held by
-- somebody who is changing it.
UPDATE messaging.message_outbox AS o
SET status = 'pending',
    attempts = 0,
    next_run_at = coalesce(%(now)s::timestamptz, statement_timestamp()),
    picked_at = NULL,
    picked_by = NULL,
    claim_id = NULL,
    sent_at = NULL,
    stream_id = NULL,
    last_error = NULL
WHERE o.id = ANY (ARRAY(
    SELECT d.id
    FROM messaging.message_outbox AS d
    WHERE d.id = ANY (%(ids)s::bigint[])
      AND d.status = 'sent'
      AND (d.sent_at < %(found_at)s OR d.sent_at IS NULL)
    FOR UPDATE SKIP LOCKED
))
RETURNING o.id
