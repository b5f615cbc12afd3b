-- settle_sent: settles rows of one claim as sent.
-- Parameters: claim_id, ids, stream_ids (one a row), now (NULL: the server's clock), stream, run_id, replid, life (the
--   incarnation and the life of the stream that the rows were published to or found in; NULL: any).
-- Returns: id of each row, NULL where a trigger undid it. A row that is missing was lost to another claim. SQLSTATE DS001: another incarnation of Redis holds the
--   stream now.
-- Loaded by: dispatcher/ops/trials.py, dispatcher/stages/settle.py
-- Index: message_outbox_pkey.
-- BETWEEN is = that can only be an index lookup: a plan made while the table was analyzed empty would join by reading all of it.
UPDATE ONLY messaging.message_outbox AS o
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
          ELSE messaging.holds_stream(%(stream)s, %(run_id)s, %(replid)s, %(life)s::bigint)
      END
  )
RETURNING CASE WHEN o.status = 'sent' THEN o.id END
