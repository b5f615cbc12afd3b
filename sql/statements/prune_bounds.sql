-- Who: ops/prune.py, for `dispatcher prune`, once before it. Index: message_outbox_pkey, both ends.
-- Answer, always one row: the lowest and the highest id there is (NULL: no row).
SELECT
    (SELECT o.id FROM messaging.message_outbox AS o ORDER BY o.id LIMIT 1),
    (SELECT o.id FROM messaging.message_outbox AS o ORDER BY o.id DESC LIMIT 1)
