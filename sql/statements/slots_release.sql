-- slots_release: releases slots of ours of which no lane has a row, and tells the others. Isolated rows, and those kept aside, may still be claimed.
-- Parameters: self (our id), wanted (slots).
-- Returns: each slot that was released. One that is missing was not ours any more.
-- Loaded by: dispatcher/upkeep/slot_keeper.py
-- Index: slot_owner_pkey.
-- The commit is flushed to disk, see slots_take.sql.
WITH released AS (
    UPDATE ONLY messaging.slot_owner AS s
    SET owner = NULL, epoch = s.epoch + 1, changed_at = clock_timestamp()
    WHERE s.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM ONLY messaging.slot_owner AS o
        WHERE o.slot = ANY (%(wanted)s::smallint[])
          AND o.owner = %(self)s
        ORDER BY o.slot
        FOR UPDATE
    ))
    RETURNING s.slot
)
SELECT r.slot, set_config('synchronous_commit', 'local', true), pg_notify('outbox_slots', '') FROM released AS r
