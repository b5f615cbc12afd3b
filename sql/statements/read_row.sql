-- Who: stages/claim.py, for each row of a claim that no batch can be read with. Index: message_outbox_pkey.
-- Answer: payload and headers as claim.sql gives them. SQLSTATE 54000: one of them would be more than a gigabyte as text, as a few
-- thousand numbers like 1e131071 are, which take twelve bytes each in jsonb. No row: it is gone.
SELECT
    CASE WHEN octet_length(t.payload) > %(most_bytes)s THEN '!' || octet_length(t.payload) ELSE t.payload END,
    CASE WHEN octet_length(t.headers) > %(most_bytes)s THEN '!' || octet_length(t.headers) ELSE t.headers END
FROM (SELECT o.payload::text, o.headers::text FROM messaging.message_outbox AS o WHERE o.id = %(id)s OFFSET 0) AS t
