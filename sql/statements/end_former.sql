-- end_former: ends sessions that came before this one and were lost: the server may not know it, and they may hold locks, for as long as a
--   proxy keeps its side of their connections open.
-- Parameters: pids (of the server's processes; after a switch another server may have processes of the same numbers, but of no session of
--   this name, which has a random part of our process).
-- Returns: one row a session. No row: they are gone already.
-- Loaded by: dispatcher/infra/postgres/reconnecting.py
-- Index: none; pg_stat_activity.
SELECT pg_terminate_backend(a.pid, 2000)
FROM pg_stat_activity AS a
WHERE a.pid = ANY (%(pids)s::integer[])
  AND a.pid <> pg_backend_pid()
  AND a.application_name = current_setting('application_name')
