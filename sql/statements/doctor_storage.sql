-- Who: ops/doctor/storage.py, for `dispatcher doctor`, once. Index: the catalogue's, and the statistics.
-- Answer: of the outbox and its dead-letter queue: options, live and dead rows as the statistics have them, when it was last vacuumed.
SELECT
    c.relname::text,
    coalesce(c.reloptions, '{}'),
    pg_stat_get_live_tuples(c.oid),
    pg_stat_get_dead_tuples(c.oid),
    greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))
FROM pg_class AS c
WHERE c.oid IN (to_regclass('messaging.message_outbox'), to_regclass('messaging.message_dlq'))
ORDER BY c.relname DESC
