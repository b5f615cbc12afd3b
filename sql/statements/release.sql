-- Who: stages/settle.py (the sink's failure, stop) and stages/claim.py (a claim whose answer was lost).
-- Index: message_outbox_due_idx; rare, so the scan of what is unsettled is affordable. A row missing from the answer: not ours any more.
-- Puts rows of these claims back as they were: attempts unchanged, due when they were due. `ids` NULL: all of them.
UPDATE messaging.message_outbox AS o
SET status = CASE WHEN o.attempts > 0 THEN 'retry' ELSE 'pending' END,
    picked_at = NULL,
    picked_by = NULL,
    claim_id = NULL,
    stream_id = NULL
WHERE NOT o.settled
  AND o.status = 'picked'
  AND o.claim_id = ANY (%(claim_ids)s::uuid[])
  AND (%(ids)s::bigint[] IS NULL OR o.id = ANY (%(ids)s::bigint[]))
RETURNING o.id
