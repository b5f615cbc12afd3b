-- Who: relay.py, while a batch waits for Redis to come back. Index: message_outbox_due_idx; rare.
-- Renews the lease of one claim: its owner is alive. A row missing from the answer: the claim was lost.
UPDATE messaging.message_outbox AS o
SET picked_at = clock_timestamp()
WHERE NOT o.settled
  AND o.status = 'picked'
  AND o.claim_id = %(claim_id)s
RETURNING o.id
