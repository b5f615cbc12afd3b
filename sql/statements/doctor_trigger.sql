-- doctor_trigger: describes the doorbell trigger.
-- Parameters: none.
-- Returns: how it fires ('O', 'A': at every insert; 'D': never; 'R': in replication only), whether it is deferred to the commit,
--   the source of its function. No row: it is not installed.
-- Loaded by: dispatcher/ops/doctor/schema.py
-- Index: the catalogue's.
SELECT
    t.tgenabled::text,
    t.tgdeferrable AND t.tginitdeferred,
    ARRAY(
        SELECT p.prosrc
        FROM pg_proc AS p
        WHERE p.pronamespace = to_regnamespace('messaging')
          AND p.proname = 'ring_doorbell'
    )
FROM pg_trigger AS t
WHERE t.tgrelid = 'messaging.message_outbox'::regclass
  AND t.tgname = 'message_outbox_doorbell'
