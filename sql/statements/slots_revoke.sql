-- slots_revoke: takes all slots from a dispatcher that is dead or frozen: from now on no claim of it takes a row. First step of the
--   handover; the next is to fence it, because a claim that began earlier may still go on.
-- Parameters: owner (its id), seen_at (its last sign of life, as text: only if it gave none since; NULL: it is dead).
-- Returns: slots that were revoked from it and are not fenced yet, by this or by an earlier call, and their epochs.
-- Loaded by: dispatcher/upkeep/slot_handover.py
-- Index: none; 256 rows.
-- The commit is flushed to disk, see slots_take.sql.
WITH revoked AS (
    UPDATE ONLY messaging.slot_owner AS s
    SET owner = NULL, revoked_from = s.owner, epoch = s.epoch + 1, changed_at = clock_timestamp()
    WHERE s.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM ONLY messaging.slot_owner AS o
        WHERE o.owner = %(owner)s
          AND (
              %(seen_at)s::text IS NULL
              OR NOT EXISTS (
                  SELECT FROM ONLY messaging.dispatcher AS d WHERE d.id = %(owner)s AND d.seen_at::text <> %(seen_at)s
              )
          )
        ORDER BY o.slot
        FOR UPDATE
    ))
    RETURNING s.slot, s.epoch
)
SELECT r.slot, r.epoch, set_config('synchronous_commit', 'local', true) FROM revoked AS r
UNION ALL
SELECT s.slot, s.epoch, NULL FROM ONLY messaging.slot_owner AS s WHERE s.revoked_from = %(owner)s AND NOT s.fenced
