-- slots_fenced: notes that a dispatcher whose slots were revoked was fenced since: it can claim and publish nothing more of them.
-- Parameters: owner (its id), wanted (slots), at_epochs (of these, as they were revoked; NULL: it says itself that it has nothing of
--   them in hand). A slot that was revoked from it again since has another epoch: it claimed in between, and must be fenced again.
-- Returns: nothing.
-- Loaded by: dispatcher/upkeep/slot_handover.py, dispatcher/upkeep/slot_keeper.py
-- Index: none; 256 rows.
UPDATE ONLY messaging.slot_owner AS s
SET fenced = true
WHERE s.revoked_from = %(owner)s
  AND NOT s.fenced
  AND s.slot = ANY (%(wanted)s::smallint[])
  AND (%(at_epochs)s::bigint[] IS NULL OR (s.slot, s.epoch) IN (
      SELECT w.slot, w.epoch FROM unnest(%(wanted)s::smallint[], %(at_epochs)s::bigint[]) AS w (slot, epoch)
  ))
