-- Who: ops/status.py, for `dispatcher status`, once. Index: the catalogue's.
-- Answer: how the doorbell trigger fires; 'D' is disabled. No row: it is not installed.
SELECT t.tgenabled::text
FROM pg_trigger AS t
WHERE t.tgrelid = 'messaging.message_outbox'::regclass
  AND t.tgname = 'message_outbox_doorbell'
