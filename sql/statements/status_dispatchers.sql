-- status_dispatchers: lists the dispatchers that run: those that hold their lock.
-- Parameters: none.
-- Returns: id, name, host, pid, version, started_at. No row: none runs.
-- Loaded by: dispatcher/ops/status.py, dispatcher/upkeep/gauges.py
-- Index: none; a few rows, and pg_locks.
SELECT d.id, d.name, d.host, d.pid, d.version, d.started_at
FROM ONLY messaging.dispatcher AS d
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
