-- prune_bounds: reads the ends of the outbox.
-- Parameters: none.
-- Returns: one row: the lowest and the highest id (NULL: no row).
-- Loaded by: dispatcher/ops/prune.py
-- Index: message_outbox_pkey, both ends.
SELECT
    (SELECT o.id FROM ONLY messaging.message_outbox AS o ORDER BY o.id LIMIT 1),
    (SELECT o.id FROM ONLY messaging.message_outbox AS o ORDER BY o.id DESC LIMIT 1)
