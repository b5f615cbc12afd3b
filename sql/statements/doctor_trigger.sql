-- Who: ops/doctor/schema.py, for `dispatcher doctor`, once. Index: the catalogue's.
-- Answer: how the doorbell trigger fires ('O' and 'A': on every insert; 'D': never; 'R': in replication only), whether it waits for
-- the commit, and the source of its function. No row: it is not installed.
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
