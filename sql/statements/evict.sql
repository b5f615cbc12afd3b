-- evict: ends the broken sessions of ours that still hold our lock.
-- Parameters: id (ours in the registry).
-- Returns: one row a session. No row: the lock is free.
-- Loaded by: dispatcher/upkeep/registry.py
-- Index: none; pg_locks.
SELECT pg_terminate_backend(l.pid)
FROM pg_locks AS l
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND l.classid = 1869968483
  AND l.objid = %(id)s::bigint::oid
  AND l.pid <> pg_backend_pid()
  AND a.application_name = current_setting('application_name')
