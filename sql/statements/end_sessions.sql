-- Who: relay.py, before it gives back a claim whose answer was lost. Index: none, pg_stat_activity.
-- Ends sessions of ours that broke and waits until they are gone: the claim must not be made after we gave it back.
-- No row: they are gone already.
SELECT pg_terminate_backend(a.pid, 5000)
FROM pg_stat_activity AS a
WHERE a.pid = ANY (%(pids)s::integer[])
  AND a.pid <> pg_backend_pid()
  AND a.application_name LIKE 'dispatcher %%'
