-- Who: upkeep/takeover.py, every second, on a direct session. Index: none, the registry is a handful of rows.
-- Answer: dispatchers that are gone, their lock now ours, so that nobody else succeeds them. No row: all are alive.
WITH others AS MATERIALIZED (
    SELECT d.id, d.name FROM messaging.dispatcher AS d WHERE d.id <> coalesce(%(self)s::bigint, 0)
)
SELECT o.id, o.name
FROM others AS o
WHERE pg_try_advisory_lock(1869968483, o.id::integer)
