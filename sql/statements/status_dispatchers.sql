-- Who: ops/status.py, for `dispatcher status`, once. Index: none; a few rows, and the lock table.
-- Answer: the dispatchers that run, by their session lock (1869968483, id). No row: none runs; a registry row whose lock nobody
-- holds belongs to the dead.
SELECT d.id, d.name, d.host, d.pid, d.version, d.started_at
FROM messaging.dispatcher AS d
WHERE EXISTS (
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
