-- end_sessions: ends broken sessions of ours and waits until they are gone, so that a claim whose answer was lost cannot be made
--   after we released it.
-- Parameters: pids (of the server's processes; after a switch another server may have processes of the same numbers, but none of sessions
--   whose name has the random part of ours, its third word).
-- Returns: one row a session. No row: they are gone already.
-- Loaded by: dispatcher/relay/claimer.py
-- Index: none; pg_stat_activity.
SELECT pg_terminate_backend(a.pid, 5000)
FROM pg_stat_activity AS a
WHERE a.pid = ANY (%(pids)s::integer[])
  AND a.pid <> pg_backend_pid()
  AND a.application_name LIKE 'dispatcher %%'
  AND split_part(a.application_name, ' ', 3) = split_part(current_setting('application_name'), ' ', 3)
