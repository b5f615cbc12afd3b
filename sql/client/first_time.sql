-- first_time: notes that a consumer handles an event, in the transaction that handles it. Index: handled_event_pkey.
-- Returns: a row the first time; none if the event was handled before. Waits while another transaction handles the same event.
--   A row, because the count of rows is not known in a pipeline of psycopg.
INSERT INTO handled_event (consumer, event_id)
VALUES (%(consumer)s, CAST(CAST(%(event_id)s AS text) AS uuid))
ON CONFLICT DO NOTHING
RETURNING true
