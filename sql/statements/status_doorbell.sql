-- status_doorbell: says how the doorbell trigger fires.
-- Parameters: none.
-- Returns: one row: 'D' is disabled; 'dropped': only its function is left, so it was not left out on purpose. No row: it is not
--   installed.
-- Loaded by: dispatcher/ops/doorbell.py
-- Index: the catalogue's.
SELECT coalesce(t.tgenabled::text, 'dropped')
FROM (SELECT) AS always
LEFT JOIN pg_trigger AS t ON t.tgrelid = 'messaging.message_outbox'::regclass AND t.tgname = 'message_outbox_doorbell'
WHERE t.tgname IS NOT NULL
   OR to_regproc('messaging.ring_doorbell') IS NOT NULL
