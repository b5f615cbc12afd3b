-- slots_fenced: notes that a dispatcher whose slots were revoked was fenced since: it can claim and publish nothing more of them.
-- Parameters: owner (its id), wanted (only these slots; NULL: all): it says itself that it has nothing of these in hand.
-- Returns: nothing.
-- Loaded by: dispatcher/upkeep/slot_handover.py, dispatcher/upkeep/slot_keeper.py
-- Index: none; 256 rows.
UPDATE ONLY messaging.slot_owner AS s
SET fenced = true
WHERE s.revoked_from = %(owner)s
  AND NOT s.fenced
  AND (%(wanted)s::smallint[] IS NULL OR s.slot = ANY (%(wanted)s::smallint[]))
