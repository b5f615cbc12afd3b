-- dead_dispatchers: finds dispatchers whose advisory lock nobody holds: they are dead.
-- Parameters: self (our id, which is left out, or NULL).
-- Returns: id and name of each. No row: all are alive, or are being taken over.
-- Loaded by: dispatcher/upkeep/takeover.py
-- Index: none; the registry has a few rows, and pg_locks.
SELECT d.id, d.name
FROM ONLY messaging.dispatcher AS d
WHERE d.id <> coalesce(%(self)s::bigint, 0)
  AND NOT EXISTS (
      SELECT
      FROM pg_locks AS l
      WHERE l.locktype = 'advisory'
        AND l.database = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
        AND l.classid = 1869968483
        AND l.objid = d.id::oid
  )
