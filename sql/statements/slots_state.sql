-- slots_state: gives a sign of life, says of how many of the first slots we may own some, and reads who owns which slot.
-- Parameters: self (our id), may_own (of how many of the first slots we may own some; NULL: of none).
-- Returns: one row: owner, epoch, the dispatcher it was revoked from, and whether that one is fenced, of each slot, as arrays in the
--   order of the slots; id, name, may_own (NULL: none), last sign of life and whether it holds its lock of each dispatcher, as arrays. Our
--   own may_own and sign of life are as they were before. Last: 1, or 0 if our row is gone.
-- Loaded by: dispatcher/upkeep/slot_keeper.py
-- Index: dispatcher_pkey; 256 rows, a few, and pg_locks.
-- A may_own that changed is told to the others, who make another plan.
WITH us AS (
    UPDATE ONLY messaging.dispatcher AS d
    SET slots = %(may_own)s::smallint, seen_at = clock_timestamp()
    FROM (SELECT o.slots FROM ONLY messaging.dispatcher AS o WHERE o.id = %(self)s::bigint) AS before
    WHERE d.id = %(self)s::bigint
    RETURNING CASE WHEN before.slots IS DISTINCT FROM d.slots THEN pg_notify('outbox_slots', '') END
),
slots AS (
    SELECT
        array_agg(s.owner ORDER BY s.slot) AS owners,
        array_agg(s.epoch ORDER BY s.slot) AS epochs,
        array_agg(s.revoked_from ORDER BY s.slot) AS revoked_from,
        array_agg(s.fenced ORDER BY s.slot) AS fenced
    FROM ONLY messaging.slot_owner AS s
),
dispatchers AS (
    SELECT
        array_agg(d.id ORDER BY d.id) AS ids,
        array_agg(d.name ORDER BY d.id) AS names,
        array_agg(d.slots ORDER BY d.id) AS may_own,
        array_agg(d.seen_at::text ORDER BY d.id) AS seen_at,
        array_agg(
            EXISTS (
                SELECT
                FROM pg_locks AS l
                WHERE l.locktype = 'advisory'
                  AND l.database = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
                  AND l.classid = 1869968483
                  AND l.objid = d.id::oid
                  AND l.objsubid = 2 -- a key of two integers
                  AND l.granted
            )
            ORDER BY d.id
        ) AS alive
    FROM ONLY messaging.dispatcher AS d
)
SELECT
    s.owners, s.epochs, s.revoked_from, s.fenced, d.ids, d.names, d.may_own, d.seen_at, d.alive,
    (SELECT count(*) FROM us) -- so that all of it is done
FROM slots AS s, dispatchers AS d
