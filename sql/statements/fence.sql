-- Who: upkeep/fence.py, before the rows of a dispatcher are taken over. Index: none, pg_stat_activity.
-- Ends the Postgres sessions of that dispatcher and waits until they are gone: a claim or settle of theirs must not
-- commit after we looked. No row: there are none.
SELECT pg_terminate_backend(a.pid, 5000)
FROM pg_stat_activity AS a
WHERE a.application_name LIKE 'dispatcher %% ' || %(token)s || ' %%'
  AND a.pid <> pg_backend_pid()
