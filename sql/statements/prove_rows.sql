-- prove_rows: counts the proof events of `dispatcher prove` by status.
-- Parameters: event_ids.
-- Returns: status and number of rows.
-- Loaded by: dispatcher/prove/run.py
-- Index: message_outbox_event_id_key.
SELECT o.status::text, count(*)
FROM ONLY messaging.message_outbox AS o
WHERE o.event_id = ANY (%(event_ids)s::uuid[])
GROUP BY o.status
