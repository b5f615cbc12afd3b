-- id_taken: asks whether our id in the registry belongs to another dispatcher: a promoted standby that had not received our row
--   gave it away again.
-- Parameters: id, name (ours).
-- Returns: one row if it does.
-- Loaded by: dispatcher/upkeep/registry.py
-- Index: dispatcher_pkey.
SELECT 1 FROM ONLY messaging.dispatcher AS d WHERE d.id = %(id)s AND d.name <> %(name)s
