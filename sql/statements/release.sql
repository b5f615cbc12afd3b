-- release: releases rows: attempts unchanged, due when they were due.
-- Parameters: claim_ids, ids (rows of these claims; NULL: all of them).
-- Returns: id of each row. A row that is missing is not ours any more.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/stages/settle.py
-- Index: message_outbox_pkey when ids are given; else message_outbox_due_idx, all that is unsettled, which is affordable because it
--   is rare.
UPDATE ONLY messaging.message_outbox AS o
SET status = CASE WHEN o.attempts > 0 THEN 'retry' ELSE 'pending' END,
    picked_at = NULL,
    picked_by = NULL,
    claim_id = NULL,
    stream_id = NULL
WHERE o.status = 'picked'
  AND o.claim_id = ANY (%(claim_ids)s::uuid[])
  AND o.id = ANY (coalesce(%(ids)s::bigint[], ARRAY(
      SELECT c.id
      FROM ONLY messaging.message_outbox AS c
      WHERE NOT c.settled
        AND c.status = 'picked'
        AND c.claim_id = ANY (%(claim_ids)s::uuid[])
  )))
RETURNING o.id
