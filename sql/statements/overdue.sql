-- overdue: looks for claims older than the lease, in one window of the unsettled rows a call.
-- Parameters: after_time, after_id (the cursor), window (rows), lease_s (seconds), now (NULL: the server's clock).
-- Returns: first a row with NULLs, the number of rows read, and the last key (NULL: none; begin again). Then the claims: claim id,
--   its owner's id, the owner's name (NULL: not registered any more). Times are text, because Python has no infinity.
-- Loaded by: dispatcher/upkeep/takeover.py
-- Index: message_outbox_due_idx, one window from the cursor on.
-- Without a backlog a window holds everything; with a backlog of millions nobody should read all of it every second.
WITH seen AS MATERIALIZED (
    SELECT d.next_run_at, d.id, d.status, d.picked_at, d.picked_by, d.claim_id
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND (d.next_run_at, d.id) > (%(after_time)s::timestamptz, %(after_id)s)
    ORDER BY d.next_run_at, d.id
    LIMIT %(window)s
),
last AS (
    SELECT s.next_run_at, s.id FROM seen AS s ORDER BY s.next_run_at DESC, s.id DESC LIMIT 1
)
SELECT NULL::text, NULL::bigint, NULL::text, (SELECT count(*) FROM seen),
       (SELECT l.next_run_at::text FROM last AS l), (SELECT l.id FROM last AS l)
UNION ALL
SELECT DISTINCT s.claim_id::text, s.picked_by, r.name, NULL::bigint, NULL::text, NULL::bigint
FROM seen AS s
LEFT JOIN ONLY messaging.dispatcher AS r ON r.id = s.picked_by
WHERE s.status = 'picked'
  AND s.picked_at < coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(lease_s)s)
