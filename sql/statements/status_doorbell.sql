-- status_doorbell: says how the doorbell trigger fires.
-- Parameters: none.
-- Returns: one row: 'D' is disabled. No row: it is not installed.
-- Loaded by: dispatcher/ops/doorbell.py
-- Index: the catalogue's.
SELECT t.tgenabled::text
FROM pg_trigger AS t
WHERE t.tgrelid = 'messaging.message_outbox'::regclass
  AND t.tgname = 'message_outbox_doorbell'
