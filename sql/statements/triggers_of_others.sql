-- triggers_of_others: names the triggers that an update of the outbox fires, and their functions; none of them is ours.
-- Parameters: none.
-- Returns: one text a trigger.
-- Loaded by: dispatcher/ops/trials.py
-- Index: pg_trigger_tgrelid_tgname_index.
SELECT t.tgname || ', which runs ' || t.tgfoid::regproc || '()'
FROM pg_trigger AS t
WHERE t.tgrelid = 'messaging.message_outbox'::regclass
  AND NOT t.tgisinternal
  AND t.tgenabled <> 'D'
  AND t.tgname <> 'message_outbox_check_update'
  AND t.tgtype & 16 > 0 -- fired by an update
ORDER BY t.tgname
LIMIT 10
