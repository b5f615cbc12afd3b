-- fence: ends the sessions of a dispatcher and waits until they are gone, so that it cannot commit a claim or a settle after we
--   looked.
-- Parameters: token (the part of its sessions' names that only it has).
-- Returns: one row a session. No row: it has none.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/fence.py
-- Index: none; pg_stat_activity.
SELECT pg_terminate_backend(a.pid, 5000)
FROM pg_stat_activity AS a
WHERE a.application_name LIKE 'dispatcher %% ' || %(token)s || ' %%'
  AND a.pid <> pg_backend_pid()
