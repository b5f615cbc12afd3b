-- pause_progress: says how far the live dispatchers are in obeying the pause.
-- Parameters: none.
-- Returns: name, version, whether it is registered, generation that it obeys and batches in flight (NULL: it wrote no note),
--   seconds since its note.
-- Loaded by: dispatcher/ops/pause.py
-- Index: none; a few rows, and pg_locks.
-- A dispatcher is alive if it holds its lock, or if it wrote its note lately: after a switch of Postgres its lock is not on the new
-- server yet, and it may still publish. Whoever takes over from a dead dispatcher removes its note.
SELECT
    coalesce(r.name, a.name),
    coalesce(a.version, r.version),
    r.name IS NOT NULL,
    a.generation,
    a.in_flight,
    date_part('epoch', clock_timestamp() - a.seen_at)
FROM (
    SELECT
        d.name,
        d.version,
        EXISTS (
            SELECT
            FROM pg_locks AS l
            WHERE l.locktype = 'advisory'
              AND l.database = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
              AND l.classid = 1869968483
              AND l.objid = d.id::oid
              AND l.objsubid = 2 -- a key of two integers
              AND l.granted
        ) AS alive
    FROM ONLY messaging.dispatcher AS d
) AS r
FULL JOIN ONLY messaging.pause_acknowledgement AS a ON a.name = r.name
WHERE r.alive
   OR a.seen_at > clock_timestamp() - interval '15 seconds'
ORDER BY 1
