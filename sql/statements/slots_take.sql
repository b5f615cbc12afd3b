-- slots_take: takes free slots. On the session that holds our lock: whoever looks dead takes none.
-- Parameters: self (our id), wanted (slots).
-- Returns: slot and epoch of each. One that is missing has an owner, or was revoked from a dispatcher whose rows are not settled yet.
-- Loaded by: dispatcher/upkeep/slot_keeper.py
-- Index: slot_owner_pkey.
-- The commit is flushed to disk: after a crash of Postgres an earlier owner must not be back.
UPDATE ONLY messaging.slot_owner AS s
SET owner = %(self)s, changed_at = clock_timestamp()
WHERE s.ctid = ANY (ARRAY(
    SELECT f.ctid
    FROM ONLY messaging.slot_owner AS f
    WHERE f.slot = ANY (%(wanted)s::smallint[])
      AND f.owner IS NULL
      AND f.revoked_from IS NULL
    ORDER BY f.slot -- so that two never wait for each other
    FOR UPDATE
))
RETURNING s.slot, s.epoch, set_config('synchronous_commit', 'local', true)
