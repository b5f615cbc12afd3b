-- not_at_work: finds sessions that wait for the server, for which the server does nothing: their connection delivers nothing any more.
-- Parameters: pids (of the server's processes).
-- Returns: pid of each that is idle, or gone. One whose state this role may not see is left out.
-- Loaded by: dispatcher/upkeep/unanswered.py
-- Index: none; pg_stat_activity.
SELECT p.pid
FROM unnest(%(pids)s::integer[]) AS p (pid)
LEFT JOIN pg_stat_activity AS a ON a.pid = p.pid
WHERE a.pid IS NULL
   OR a.state LIKE 'idle%%'
