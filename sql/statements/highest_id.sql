-- highest_id: reads the highest id of the outbox.
-- Parameters: none.
-- Returns: one row: the id (0: no row).
-- Loaded by: dispatcher/relay/claimer.py
-- Index: message_outbox_pkey, its end.
SELECT coalesce((SELECT o.id FROM ONLY messaging.message_outbox AS o ORDER BY o.id DESC LIMIT 1), 0)
