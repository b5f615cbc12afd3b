-- dead_dispatchers: finds dispatchers whose advisory lock nobody holds: they are dead. Says also whether our own row is gone: the tables
--   were made again, or somebody emptied this one, and nobody would see us.
-- Parameters: self (our id, or NULL).
-- Returns: id and name of each; our id and NULL if our row is gone. No row: all are alive, or are being taken over.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/registry.py
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
UNION ALL
SELECT %(self)s::bigint, NULL
WHERE %(self)s::bigint IS NOT NULL
  AND NOT EXISTS (SELECT FROM ONLY messaging.dispatcher AS u WHERE u.id = %(self)s::bigint)
