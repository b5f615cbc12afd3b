-- Who: upkeep/takeover.py, every second. Index: message_outbox_due_idx; claimed rows stand at its head.
-- The last resort: claims older than the lease (their owner froze, or died unseen) are put back, unharmed.
-- A row missing from the answer: not overdue, or being settled at this moment.
UPDATE messaging.message_outbox AS o
SET status = CASE WHEN o.attempts > 0 THEN 'retry' ELSE 'pending' END,
    picked_at = NULL,
    picked_by = NULL,
    claim_id = NULL
WHERE o.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.status = 'picked'
      AND d.picked_at < coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(lease_s)s)
    ORDER BY d.next_run_at, d.id
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
))
RETURNING o.id
