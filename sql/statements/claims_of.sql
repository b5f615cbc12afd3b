-- claims_of: lists the claims of a dispatcher that is about to be fenced.
-- Parameters: owner (its id in the registry).
-- Returns: claim id of each. A claim that is missing is settled, or was made after we looked.
-- Loaded by: dispatcher/upkeep/takeover.py
-- Index: message_outbox_due_idx, all that is unsettled, which is affordable because it is rare.
SELECT DISTINCT d.claim_id::text
FROM ONLY messaging.message_outbox AS d
WHERE NOT d.settled
  AND d.status = 'picked'
  AND d.picked_by = %(owner)s
  AND d.claim_id IS NOT NULL
