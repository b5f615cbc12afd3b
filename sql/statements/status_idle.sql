-- status_idle: lists the dispatchers that are connected, by the session that each has, whether it is enabled or not.
-- Parameters: none.
-- Returns: the token that ends its name, and its name as far as Postgres keeps it. No row: none is connected.
-- Loaded by: dispatcher/ops/status.py
-- Index: none; pg_stat_activity.
SELECT DISTINCT
    split_part(a.application_name, ' ', 3),
    split_part(a.application_name, ' ', 4)
FROM pg_stat_activity AS a
WHERE a.datname = current_database()
  AND a.application_name LIKE 'dispatcher chores % %'
ORDER BY 2
