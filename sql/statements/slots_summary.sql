-- slots_summary: who owns how many slots, and how many have no owner.
-- Parameters: none.
-- Returns: dispatcher (its owner, or the one it was revoked from; NULL: it is free), name of it (NULL: it is not in the registry), state
--   (owned, dead: its owner does not hold its lock, revoked, fenced or free), number of slots, seconds since the last of them changed.
-- Loaded by: dispatcher/ops/doctor/order.py, dispatcher/ops/status.py
-- Index: none; 256 rows, a few, and pg_locks.
SELECT w.dispatcher, d.name, w.state, count(*), date_part('epoch', clock_timestamp() - max(w.changed_at))
FROM (
    SELECT
        coalesce(s.owner, s.revoked_from) AS dispatcher,
        CASE
            WHEN s.fenced THEN 'fenced'
            WHEN s.revoked_from IS NOT NULL THEN 'revoked'
            WHEN s.owner IS NULL THEN 'free'
            WHEN s.owner IN (
                SELECT l.objid::bigint
                FROM pg_locks AS l
                WHERE l.locktype = 'advisory'
                  AND l.database = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
                  AND l.classid = 1869968483
                  AND l.objsubid = 2 -- a key of two integers
                  AND l.granted
            ) THEN 'owned'
            ELSE 'dead'
        END AS state,
        s.changed_at
    FROM ONLY messaging.slot_owner AS s
) AS w
LEFT JOIN ONLY messaging.dispatcher AS d ON d.id = w.dispatcher
GROUP BY w.dispatcher, d.name, w.state
ORDER BY w.dispatcher, w.state
