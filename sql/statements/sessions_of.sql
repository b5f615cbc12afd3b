-- sessions_of: lists the sessions of a dispatcher that is about to be fenced, or was.
-- Parameters: token (the part of its sessions' names that only it has).
-- Returns: process id and begin of each, as text: together they name one session for good. No row: it has none.
-- Loaded by: dispatcher/upkeep/fence.py, dispatcher/upkeep/slot_handover.py
-- Index: none; pg_stat_activity.
SELECT a.pid, a.backend_start::text
FROM pg_stat_activity AS a
WHERE a.application_name LIKE 'dispatcher %% ' || %(token)s || ' %%'
  AND a.pid <> pg_backend_pid()
