-- Who: upkeep/takeover.py, every second. Index: message_outbox_due_idx, one window of it a call, from the cursor on.
-- Puts back, unharmed, claims older than the lease: their owner froze or died. The last resort.
-- Answer, always one row: rows put back, rows looked at, and the last key looked at (NULL: none; begin again).
-- The key's time is text: a parked row's infinity is no Python time.
-- A window, because without a backlog it is everything, and with a backlog of millions nobody should walk it every second.
WITH seen AS MATERIALIZED (
    SELECT d.ctid, d.next_run_at, d.id, d.status, d.picked_at
    FROM messaging.message_outbox AS d
    WHERE NOT d.settled
      AND (d.next_run_at, d.id) > (%(after_time)s::timestamptz, %(after_id)s)
    ORDER BY d.next_run_at, d.id
    LIMIT %(window)s
),
overdue AS MATERIALIZED (
    SELECT d.ctid
    FROM messaging.message_outbox AS d
    WHERE d.ctid = ANY (ARRAY(SELECT s.ctid FROM seen AS s WHERE s.status = 'picked'))
      AND d.status = 'picked'
      AND d.picked_at < coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(lease_s)s)
    FOR UPDATE SKIP LOCKED
),
freed AS (
    UPDATE messaging.message_outbox AS o
    SET status = CASE WHEN o.attempts > 0 THEN 'retry' ELSE 'pending' END,
        picked_at = NULL,
        picked_by = NULL,
        claim_id = NULL
    WHERE o.ctid = ANY (ARRAY(SELECT v.ctid FROM overdue AS v))
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM freed),
    (SELECT count(*) FROM seen),
    last.next_run_at::text,
    last.id
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (
    SELECT s.next_run_at, s.id FROM seen AS s ORDER BY s.next_run_at DESC, s.id DESC LIMIT 1
) AS last ON true
