-- slots_free: frees revoked slots, for anybody to take, once their last owner is fenced and no row of them is picked by anybody: what
--   it had in hand is settled or released, and found in the stream if it was there. Last step of the handover.
-- Parameters: none.
-- Returns: each slot that is free now. One that is missing is not fenced, or a row of it is still picked.
-- Loaded by: dispatcher/upkeep/slot_handover.py
-- Index: message_outbox_due_idx; walks all that is unsettled, which is affordable because it is rare.
-- Nobody claims rows of a revoked slot, so no new one comes. The rows of `dispatcher prove` are claimed without owning a slot.
WITH freed AS (
    UPDATE ONLY messaging.slot_owner AS s
    SET revoked_from = NULL, fenced = false, changed_at = clock_timestamp()
    WHERE s.fenced
      AND s.slot <> ALL (ARRAY(
          SELECT DISTINCT hashtextextended(o.aggregate_id, 0) & 255
          FROM ONLY messaging.message_outbox AS o
          WHERE NOT o.settled
            AND o.status = 'picked'
            AND o.event_type <> 'dispatcher.prove'
      ))
    RETURNING s.slot
)
SELECT f.slot, pg_notify('outbox_slots', '') FROM freed AS f
