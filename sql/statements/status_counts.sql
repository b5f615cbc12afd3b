-- status_counts: counts the rows of each status.
-- Parameters: none.
-- Returns: status and number. No row: the outbox is empty.
-- Loaded by: dispatcher/ops/status.py
-- Index: none; reads the whole table, up to statement_timeout.
SELECT o.status, count(*)
FROM ONLY messaging.message_outbox AS o
GROUP BY o.status
