-- Who: ops/status.py, for `dispatcher status`, once. Index: none; reads the whole table, bounded by statement_timeout.
-- Answer: how many rows have each status. No row: no event has that status.
SELECT o.status, count(*)
FROM messaging.message_outbox AS o
GROUP BY o.status
