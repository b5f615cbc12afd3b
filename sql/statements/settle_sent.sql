-- Who: stages/settle.py, for the rows of one claim that are in the stream. Index: message_outbox_pkey.
-- A row missing from the answer: the claim was lost; somebody else has the row or had it. SQLSTATE DS001: another run of Redis
-- holds the stream now than the one (%(run_id)s not NULL) that these rows were published to or found in.
-- BETWEEN is = that can only be an index lookup: a plan made while the table was analyzed empty would join by reading all of it.
UPDATE messaging.message_outbox AS o
SET status = 'sent',
    sent_at = coalesce(%(now)s::timestamptz, clock_timestamp()),
    stream_id = s.stream_id,
    last_error = NULL
FROM unnest(%(ids)s::bigint[], %(stream_ids)s::text[]) AS s (id, stream_id)
WHERE o.id BETWEEN s.id AND s.id
  AND o.claim_id = %(claim_id)s
  AND o.status = 'picked'
  AND (
      SELECT CASE
          WHEN %(run_id)s::text IS NULL THEN true
          ELSE messaging.holds_stream(%(stream)s, %(run_id)s, %(replid)s)
      END
  )
RETURNING o.id
