-- read_row: reads payload and headers of rows of a claim that were too large for its answer, and the names.
-- Parameters: ids (in the claim's order), most_bytes (larger text stays in Postgres for good).
-- Returns: id, payload, headers, event_type, aggregate_type and aggregate_id (at most 1,001 characters): '!' and the size stand for text of more than most_bytes. The payload is NULL from the first row on
--   that does not fit in an answer of 4 MiB; the first row always does. A row that is missing is gone. SQLSTATE 54000: as text one of them is
--   more than a gigabyte, as a few thousand numbers like 1e131071 are, which take twelve bytes each in jsonb; 22P05: one of them has a
--   character that UTF-8 lacks.
-- Loaded by: dispatcher/stages/claim.py, dispatcher/upkeep/adopted.py
-- Index: message_outbox_pkey.
WITH written AS MATERIALIZED (
    SELECT w.place, r.*
    FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS w (id, place)
    CROSS JOIN LATERAL ( -- by the index, one by one, whatever the statistics say
        SELECT o.id, o.payload::text AS payload, o.headers::text AS headers, left(o.event_type, 1001) AS event_type,
               left(o.aggregate_type, 1001) AS aggregate_type, left(o.aggregate_id, 1001) AS aggregate_id
        FROM ONLY messaging.message_outbox AS o
        WHERE o.id = w.id
        OFFSET 0
    ) AS r
),
measured AS (
    SELECT
        t.*,
        octet_length(t.payload) > %(most_bytes)s AS payload_large,
        octet_length(t.headers) > %(most_bytes)s AS headers_large,
        sum(CASE WHEN octet_length(t.payload) > %(most_bytes)s THEN 0 ELSE octet_length(t.payload) END
            + CASE WHEN octet_length(t.headers) <= %(most_bytes)s THEN octet_length(t.headers) ELSE 0 END)
            OVER (ORDER BY t.place ROWS UNBOUNDED PRECEDING) <= 4194304
            OR row_number() OVER (ORDER BY t.place ROWS UNBOUNDED PRECEDING) = 1 AS fits
    FROM written AS t
)
SELECT
    m.id,
    CASE WHEN m.fits THEN CASE WHEN m.payload_large THEN '!' || octet_length(m.payload) ELSE m.payload END END,
    CASE WHEN m.fits THEN CASE WHEN m.headers_large THEN '!' || octet_length(m.headers) ELSE m.headers END END,
    m.event_type, m.aggregate_type, m.aggregate_id
FROM measured AS m
ORDER BY m.place
