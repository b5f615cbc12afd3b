-- Who: dispatcher/client, once an entry, in the transaction that handles the event. Index: handled_event_pkey.
-- No row inserted: the event was handled. While another transaction handles the same event this waits for its end.
INSERT INTO handled_event (consumer, event_id)
VALUES (%(consumer)s, CAST(%(event_id)s AS uuid))
ON CONFLICT DO NOTHING
