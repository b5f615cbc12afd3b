-- trial_borrow: makes a settled row the one that the trials work on, where none can be inserted; rolled back like all they do.
-- Parameters: due (a time at which nothing else is due).
-- Returns: id. No row: no row is settled, or all that were looked at are locked.
-- Loaded by: dispatcher/ops/trials.py
-- Index: message_outbox_pkey, its end.
UPDATE ONLY messaging.message_outbox AS o
SET status = 'pending',
    next_run_at = %(due)s::timestamptz
WHERE o.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM ONLY messaging.message_outbox AS d
    WHERE d.id = ANY (ARRAY(SELECT n.id FROM ONLY messaging.message_outbox AS n ORDER BY n.id DESC LIMIT 100))
      AND d.settled
    LIMIT 1
    FOR UPDATE SKIP LOCKED
))
RETURNING o.id
