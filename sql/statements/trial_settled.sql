-- trial_settled: asks whether the row of the trials is still sent after its settle: a trigger may undo it behind that statement.
-- Parameters: id.
-- Returns: id. No row: it is not sent.
-- Loaded by: dispatcher/ops/trial_list.py
-- Index: message_outbox_pkey.
SELECT o.id
FROM ONLY messaging.message_outbox AS o
WHERE o.id = %(id)s
  AND o.status = 'sent'
