-- Who: upkeep/takeover.py, every second. Index: none, the registry is a handful of rows, and pg_locks.
-- Answer: other dispatchers whose lock nobody holds. No row: all are alive, or being succeeded.
SELECT d.id, d.name
FROM messaging.dispatcher AS d
WHERE d.id <> coalesce(%(self)s::bigint, 0)
  AND NOT EXISTS (
      SELECT
      FROM pg_locks AS l
      WHERE l.locktype = 'advisory'
        AND l.database = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
        AND l.classid = 1869968483
        AND l.objid = d.id::oid
  )
