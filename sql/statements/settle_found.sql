-- Who: upkeep/postgres_crash.py, for each page of the stream after a crash of Postgres. Index:
-- message_outbox_event_id_key.
-- Settles rows as sent whose entry is newer than what they say: than the floor of their claim, or than %(since_id)s when their claim was
-- forgotten. A row that is replayed keeps what it says, or its old entry is older than that: it goes out again.
-- A row missing from the answer: settled, or its entry is an older one. SQLSTATE DS001: another run of Redis holds the stream.
UPDATE messaging.message_outbox AS o
SET status = 'sent',
    sent_at = clock_timestamp(),
    stream_id = s.stream_id,
    last_error = NULL
FROM unnest(%(event_ids)s::uuid[], %(stream_ids)s::text[]) AS s (event_id, stream_id)
WHERE o.event_id = s.event_id
  AND o.event_id = ANY (%(event_ids)s::uuid[]) -- said twice: a plan made while the table was empty would join all of it otherwise
  AND o.status NOT IN ('sent', 'dead') -- not "NOT settled": such a plan would walk all that is unsettled
  AND messaging.stream_order(s.stream_id) > CASE
      WHEN o.status = 'picked' THEN messaging.stream_order(coalesce(o.stream_id, %(since_id)s))
      ELSE greatest(messaging.stream_order(%(since_id)s), messaging.stream_order(o.stream_id))
  END
  AND (
      SELECT CASE
          WHEN %(run_id)s::text IS NULL THEN true
          ELSE messaging.holds_stream(%(stream)s, %(run_id)s, %(replid)s)
      END
  )
RETURNING o.id
