-- pause_progress: says how far dispatchers are in obeying the pause: those that live, and those of which it is not known.
-- Parameters: none.
-- Returns: name, version, whether it is registered, generation that it obeys and batches in flight (NULL: it wrote no note), seconds
--   since its note by the server's clock (negative: the clock went back), whether it holds its lock, when it wrote its note (text: a
--   new one is a sign of life), what it says of itself.
-- Loaded by: dispatcher/ops/pause.py
-- Index: none; a few rows, and pg_locks.
-- A dispatcher is alive if it holds its lock, or if it goes on writing its note: after a switch of Postgres its lock is not on the new
-- server yet, and it may still publish. Whoever takes over from a dead dispatcher removes its note. How old a note is says little
-- after the clock was set: who must know watches it.
SELECT
    coalesce(r.name, a.name),
    coalesce(a.version, r.version),
    r.name IS NOT NULL,
    a.generation,
    a.in_flight,
    date_part('epoch', clock_timestamp() - a.seen_at),
    coalesce(r.alive, false),
    a.seen_at::text,
    a.condition
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
   OR a.name IS NOT NULL
ORDER BY 1
