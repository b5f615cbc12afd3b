-- settle_found: settles rows as sent whose entries a search of the stream found after a crash of Postgres.
-- Parameters: event_ids, stream_ids (one an event), key (the stream, as the rows are to name it; NULL: there is only one), since_id (where the search began), stream, run_id, replid, life (the
--   incarnation and the life of the stream; NULL: any).
-- Returns: id of each row. A row that is missing is settled, or the entry is older than it. SQLSTATE DS001: another incarnation
--   holds the stream.
-- Loaded by: dispatcher/upkeep/postgres_crash.py
-- Index: message_outbox_event_id_key.
-- The entry must be newer than the floor of the row's claim, or than since_id if the claim was lost. The old entry of a row that is
-- being replayed is older than what the row says: such a row goes out again.
UPDATE ONLY messaging.message_outbox AS o
SET status = 'sent',
    sent_at = (SELECT clock_timestamp()), -- one reading: see settle_sent.sql
    stream_id = s.stream_id,
    stream = %(key)s,
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
          ELSE messaging.holds_stream(%(stream)s, %(run_id)s, %(replid)s, %(life)s::bigint)
      END
  )
RETURNING o.id
