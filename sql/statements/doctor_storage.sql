-- doctor_storage: describes how the outbox and its dead-letter queue are stored.
-- Parameters: none.
-- Returns: for each of the two: name, options, live rows, dead row versions, when it was last vacuumed.
-- Loaded by: dispatcher/ops/doctor/storage.py
-- Index: the catalogue's, and the statistics.
SELECT
    c.relname::text,
    coalesce(c.reloptions, '{}'),
    pg_stat_get_live_tuples(c.oid),
    pg_stat_get_dead_tuples(c.oid),
    greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))
FROM pg_class AS c
WHERE c.oid IN (to_regclass('messaging.message_outbox'), to_regclass('messaging.message_dlq'))
ORDER BY c.relname DESC
