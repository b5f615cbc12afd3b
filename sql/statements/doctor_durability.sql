-- doctor_durability: says what of the tables a crash of Postgres keeps.
-- Parameters: none.
-- Returns: one row: the tables that are not kept and should be; whether messaging.unbroken is kept, which should not be; the
--   settings that are off.
-- Loaded by: dispatcher/ops/doctor/storage.py
-- Index: the catalogue's.
SELECT
    ARRAY(
        SELECT c.relname::text
        FROM pg_class AS c
        WHERE c.oid IN (to_regclass('messaging.message_outbox'), to_regclass('messaging.message_dlq'))
          AND c.relpersistence <> 'p'
        ORDER BY c.relname
    ),
    EXISTS (SELECT FROM pg_class AS c WHERE c.oid = to_regclass('messaging.unbroken') AND c.relpersistence <> 'u'),
    ARRAY(
        SELECT s.name
        FROM pg_settings AS s
        WHERE s.name IN ('fsync', 'full_page_writes')
          AND s.setting = 'off'
        ORDER BY s.name
    )
