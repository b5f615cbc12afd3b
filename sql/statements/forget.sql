-- Who: upkeep/takeover.py, when nothing is claimed in the name of a dead dispatcher any more. Index: dispatcher_pkey.
-- Removes it from the registry and lets its lock go.
WITH gone AS (
    DELETE FROM messaging.dispatcher AS d WHERE d.id = %(id)s AND %(done)s
)
SELECT pg_advisory_unlock(1869968483, %(id)s::integer)
