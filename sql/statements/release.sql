-- Who: stages/settle.py (the sink's failure, stop) and relay.py (a claim whose answer was lost).
-- Index: message_outbox_pkey when ids are given, as after each failed trial of an outage; else message_outbox_due_idx, all of what
-- is unsettled, which is rare. A row missing from the answer: not ours any more.
-- Puts rows of these claims back as they were: attempts unchanged, due when they were due. `ids` NULL: all of them.
UPDATE messaging.message_outbox AS o
SET status = CASE WHEN o.attempts > 0 THEN 'retry' ELSE 'pending' END,
    picked_at = NULL,
    picked_by = NULL,
    claim_id = NULL,
    stream_id = NULL
WHERE o.status = 'picked'
  AND o.claim_id = ANY (%(claim_ids)s::uuid[])
  AND o.id = ANY (coalesce(%(ids)s::bigint[], ARRAY(
      SELECT c.id
      FROM messaging.message_outbox AS c
      WHERE NOT c.settled
        AND c.status = 'picked'
        AND c.claim_id = ANY (%(claim_ids)s::uuid[])
  )))
RETURNING o.id
