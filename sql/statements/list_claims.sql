-- list_claims: lists the claims in one window of the unsettled rows, and says which of the claims that were named have stood still.
-- Parameters: after_time, after_id (the cursor), window (rows); rows, claim_ids, picked_at (claims that were listed before: one row of
--   each claim, as the row was listed).
-- Returns: first a row with NULLs, the number of rows read, the last key (NULL: none; begin again), and the server's clock (Unix
--   seconds). Then the claims: claim id (NULL: rows picked without one, all of them together), its owner's id, the owner's name
--   (NULL: not registered any more), the id of one row, when that row was claimed or renewed (text; NULL without a claim id), how long
--   ago by the server's clock (seconds), whether the claim was named and is unchanged.
-- A retry of the window that failed in the future, because the clock went back since, gets the wait that it was given from now on.
-- Loaded by: dispatcher/upkeep/takeover.py
-- Index: message_outbox_due_idx, one window from the cursor on; message_outbox_pkey.
-- Without a backlog a window holds everything; with a backlog of millions nobody should read all of it every second.
-- Times are text, because Python has no infinity. No claim is judged by the clock, which may have been set since: whoever runs
-- this measures how long a claim has stood still.
WITH seen AS MATERIALIZED (
    SELECT d.ctid, d.next_run_at, d.id, d.status, d.picked_at, d.picked_by, d.claim_id
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND (d.next_run_at, d.id) > (%(after_time)s::timestamptz, %(after_id)s)
    ORDER BY d.next_run_at, d.id
    LIMIT %(window)s
),
rescheduled AS (
    UPDATE ONLY messaging.message_outbox AS o
    SET next_run_at = o.next_run_at - (o.picked_at - clock_timestamp()), picked_at = clock_timestamp()
    WHERE o.ctid = ANY (ARRAY(
        SELECT d.ctid
        FROM ONLY messaging.message_outbox AS d
        WHERE d.ctid = ANY (ARRAY(
            SELECT s.ctid
            FROM seen AS s
            WHERE s.status = 'retry'
              AND s.picked_at > clock_timestamp() + interval '1 second'
        ))
          AND d.status = 'retry'
          AND d.picked_at > clock_timestamp() + interval '1 second'
          AND d.picked_at < '4000-01-01 00:00:00+00' -- a time that the subtraction cannot give would end the whole check
          AND d.next_run_at BETWEEN '1970-01-01 00:00:00+00' AND '9999-12-31 00:00:00+00'
        FOR UPDATE SKIP LOCKED
    ))
),
last AS (
    SELECT s.next_run_at, s.id FROM seen AS s ORDER BY s.next_run_at DESC, s.id DESC LIMIT 1
),
claims AS (
    SELECT s.claim_id, s.picked_by, min(s.id) AS id, min(s.picked_at) AS picked_at, false AS unchanged
    FROM seen AS s
    WHERE s.status = 'picked'
    GROUP BY s.claim_id, s.picked_by, CASE WHEN s.claim_id IS NOT NULL THEN s.picked_at END
    UNION ALL
    SELECT o.claim_id, o.picked_by, o.id, o.picked_at, true
    FROM unnest(%(rows)s::bigint[], %(claim_ids)s::uuid[], %(picked_at)s::timestamptz[]) AS a (id, claim_id, picked_at)
    JOIN ONLY messaging.message_outbox AS o ON o.id BETWEEN a.id AND a.id
    WHERE o.status = 'picked'
      AND o.claim_id IS NOT DISTINCT FROM a.claim_id
      AND (a.picked_at IS NULL OR o.picked_at = a.picked_at)
)
SELECT NULL::text, NULL::bigint, NULL::text, (SELECT count(*) FROM seen),
       (SELECT l.next_run_at::text FROM last AS l), (SELECT l.id FROM last AS l), NULL::text,
       date_part('epoch', clock_timestamp()), NULL::boolean
UNION ALL
SELECT c.claim_id::text, c.picked_by, r.name, NULL::bigint, NULL::text, c.id, CASE WHEN c.claim_id IS NOT NULL THEN c.picked_at::text END,
       coalesce(date_part('epoch', clock_timestamp()) - date_part('epoch', c.picked_at), 0), c.unchanged
FROM claims AS c
LEFT JOIN ONLY messaging.dispatcher AS r ON r.id = c.picked_by
