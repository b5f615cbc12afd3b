-- adopt: takes claimed rows over from a dispatcher that is fenced, or that has not renewed its lease, under a claim of our own.
-- Parameters: self (our id in the registry, or NULL), claim_id, limit (rows); claims (whole claims, which a dispatcher made before it
--   was fenced: if it was only cut off, it may make new claims, and publish their rows); still_claims, still_at (claims that stood
--   still, and when each was made or renewed: only rows that were not renewed since); picked_without_claim (whether to take also rows that are
--   picked without a claim id), owner (the dispatcher whose rows these are; NULL: any); left_out (slots of shards whose node is away);
--   escaped (whether each byte of event_type that is not ASCII comes as \ooo, for one of them cannot be read); layout (the fingerprint of
--   ours: rows for a stream only while it stands, for another layout searches other streams; NULL: no row for a stream).
-- Returns: id, event_id, stream_id (the floor, or the mark of a row for a handler, see HandlerMark), attempts, event_type and slot of each row.
--   A row that is missing was settled or renewed meanwhile.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/adopted.py
-- Index: message_outbox_due_idx, layout_pkey; walks all that is unsettled, which is affordable because it is rare.
-- A row in hand keeps the layout from being changed: see messaging.set_layout. So it stands until the row is settled or released.
-- No time is compared with the clock: the clock may have been set since the claim.
UPDATE ONLY messaging.message_outbox AS o
SET picked_at = (SELECT clock_timestamp()),
    picked_by = %(self)s,
    claim_id = %(claim_id)s
WHERE o.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.status = 'picked'
      AND (
          d.claim_id = ANY (%(claims)s::uuid[])
          OR (d.claim_id, coalesce(d.picked_at, '-infinity')) IN ( -- NULL: picked by hand, while triggers were off
              SELECT s.claim_id, coalesce(s.picked_at, '-infinity')
              FROM unnest(%(still_claims)s::uuid[], %(still_at)s::timestamptz[]) AS s (claim_id, picked_at)
          )
          OR (d.claim_id IS NULL AND %(picked_without_claim)s AND (%(owner)s::bigint IS NULL OR d.picked_by = %(owner)s))
      )
      AND (hashtextextended(d.aggregate_id, 0) & 255) <> ALL (%(left_out)s::integer[])
      AND (
          coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), '') = %(layout)s::text
          OR d.stream_id IS NULL
          OR d.stream_id !~ '^[0-9]+-[0-9]+$' -- of a row for a handler it says something else
          OR d.event_type = 'dispatcher.prove' -- its floor is of another stream
      )
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
RETURNING o.id, o.event_id::text, o.stream_id, o.attempts,
    CASE WHEN %(escaped)s THEN encode(convert_to(o.event_type, getdatabaseencoding()::name), 'escape') ELSE o.event_type END,
    (hashtextextended(o.aggregate_id, 0) & 255)::integer -- not o.slot: rows of a large table of before 20251201 have 0 there
