-- settle_sent: settles rows of one claim as sent.
-- Parameters: claim_id, ids, stream_ids (one a row), now (NULL: the server's clock), stream, run_id, replid, life (the
--   incarnation and the life of the stream that the rows were published to or found in; NULL: any).
-- Parameters with several streams: keys (one a row: its stream), streams, run_ids, replids, lives (one a stream; NULL: any).
-- Returns: id of each row, NULL where a trigger undid it. A row that is missing is another claim's, was settled by an earlier try, or
--   bears our claim still: a trigger undid it. SQLSTATE DS001: another incarnation of Redis holds the stream now.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/stages/settle.py
-- Index: message_outbox_pkey.
-- Lines marked --sharded belong to load("settle_sent", sharded=True), of a layout of several streams; else those marked --single.
-- BETWEEN is = that can only be an index lookup: a plan made while the table was analyzed empty would join by reading all of it.
UPDATE ONLY messaging.message_outbox AS o
SET status = 'sent',
    sent_at = (SELECT coalesce(%(now)s::timestamptz, clock_timestamp())), -- one reading: each later one widens the BRIN entry again
    stream_id = s.stream_id,
    --single: stream = NULL,
    --sharded: stream = s.key,
    last_error = NULL
--single: FROM unnest(%(ids)s::bigint[], %(stream_ids)s::text[]) AS s (id, stream_id)
--sharded: FROM unnest(%(ids)s::bigint[], %(stream_ids)s::text[], %(keys)s::text[]) AS s (id, stream_id, key)
WHERE o.id BETWEEN s.id AND s.id
  AND o.claim_id = %(claim_id)s
  AND o.status = 'picked'
  AND (
      SELECT CASE
          --single: WHEN %(run_id)s::text IS NULL THEN true
          --single: ELSE messaging.holds_stream(%(stream)s, %(run_id)s, %(replid)s, %(life)s::bigint)
          --sharded: WHEN %(streams)s::text[] IS NULL THEN true
          --sharded: ELSE messaging.holds_streams(%(streams)s::text[], %(run_ids)s::text[], %(replids)s::text[], %(lives)s::bigint[])
      END
  )
RETURNING CASE WHEN o.status = 'sent' THEN o.id END
