-- replay_find: finds the sent rows that a replay would put back.
-- Parameters: since, until (when they were sent), event_types, aggregate_types, aggregate_ids, event_ids, each NULL: any.
-- Returns: one row: now; when the first and the last of them were sent; their ids in order (NULL: none); a mark of each: a hash of
--   the claim that sent it, and of when; their event ids in that order, if event_ids were named.
-- Loaded by: dispatcher/ops/replay.py
-- Index: message_outbox_time_idx for a range of time, message_outbox_event_id_key for event ids; else the whole table is read, up
--   to statement_timeout.
-- A row that was marked sent by hand has no sent_at and is in no range of time.
SELECT statement_timestamp(), min(o.sent_at), max(o.sent_at), array_agg(o.id ORDER BY o.id),
       array_agg(hash_record_extended(ROW(o.claim_id, o.sent_at), 0) ORDER BY o.id),
       array_agg(o.event_id ORDER BY o.id) FILTER (WHERE %(event_ids)s::uuid[] IS NOT NULL)
FROM ONLY messaging.message_outbox AS o
WHERE o.status = 'sent'
  AND (%(since)s::timestamptz IS NULL OR o.sent_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR o.sent_at < %(until)s)
  AND (%(event_types)s::text[] IS NULL OR o.event_type = ANY (%(event_types)s))
  AND (%(aggregate_types)s::text[] IS NULL OR o.aggregate_type = ANY (%(aggregate_types)s))
  AND (%(aggregate_ids)s::text[] IS NULL OR o.aggregate_id = ANY (%(aggregate_ids)s))
  AND (%(event_ids)s::uuid[] IS NULL OR o.event_id = ANY (%(event_ids)s))
