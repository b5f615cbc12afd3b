-- rings_waiting: counts the commits that wait to ring the doorbell, because another one is ringing.
-- Parameters: none.
-- Returns: one row: their number, of all databases of the server: NOTIFY locks "database 0" until its commit is flushed, and is on a
--   standby where commits wait for one.
-- Loaded by: dispatcher/stages/doorbell/wake.py
-- Index: none; pg_locks.
SELECT count(*)
FROM pg_locks
WHERE locktype = 'object' AND database = 0 AND classid = 'pg_database'::regclass AND objid = 0 AND NOT granted
