-- slots_fenced: notes that a dispatcher whose slots were revoked was fenced since: it can claim and publish nothing more of them.
-- Parameters: owner (its id).
-- Returns: nothing.
-- Loaded by: dispatcher/upkeep/slot_handover.py
-- Index: none; 256 rows.
UPDATE ONLY messaging.slot_owner AS s
SET fenced = true
WHERE s.revoked_from = %(owner)s
  AND NOT s.fenced
