-- Who: upkeep/registry.py, when our own row's lock is still held by the session that broke. Index: none, pg_locks.
-- Ends the sessions of ours that hold it. No row: the lock is free.
SELECT pg_terminate_backend(l.pid)
FROM pg_locks AS l
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND l.classid = 1869968483
  AND l.objid = %(id)s::bigint::oid
  AND l.pid <> pg_backend_pid()
  AND a.application_name = current_setting('application_name')
