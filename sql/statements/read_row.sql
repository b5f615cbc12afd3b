-- read_row: reads payload and headers of one row of a claim that could not be read as a whole.
-- Parameters: id, most_bytes (larger text stays in Postgres).
-- Returns: payload and headers as claim returns them. No row: it is gone. SQLSTATE 54000: as text one of them is more than a
--   gigabyte, as a few thousand numbers like 1e131071 are, which take twelve bytes each in jsonb.
-- Loaded by: dispatcher/stages/claim.py
-- Index: message_outbox_pkey.
SELECT
    CASE WHEN octet_length(t.payload) > %(most_bytes)s THEN '!' || octet_length(t.payload) ELSE t.payload END,
    CASE WHEN octet_length(t.headers) > %(most_bytes)s THEN '!' || octet_length(t.headers) ELSE t.headers END
FROM (SELECT o.payload::text, o.headers::text FROM ONLY messaging.message_outbox AS o WHERE o.id = %(id)s OFFSET 0) AS t
