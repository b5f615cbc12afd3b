-- prove_insert: commits one proof event of `dispatcher prove`.
-- Parameters: event_id, event_type, json (the payload, as text).
-- Returns: nothing.
-- Loaded by: dispatcher/prove/traffic.py
-- Index: none; an insert.
INSERT INTO messaging.message_outbox (event_id, event_type, aggregate_id, payload)
VALUES (%(event_id)s::uuid, %(event_type)s, %(event_id)s, %(json)s::jsonb)
