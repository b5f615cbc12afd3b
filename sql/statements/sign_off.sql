-- Who: upkeep/registry.py, at the end of a clean stop and to clear away rows whose process is long gone.
-- Index: dispatcher_pkey. A dispatcher's row that still has claimed rows to its name is kept for the takeover.
DELETE FROM messaging.dispatcher WHERE id = %(id)s
