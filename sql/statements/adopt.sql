-- adopt: takes claimed rows over from a dispatcher that is fenced, or whose lease has expired, under a claim of our own.
-- Parameters: self (our id in the registry, or NULL), claim_id, limit (rows); owner and fenced_at (a fenced dispatcher's id: rows
--   that it claimed up to that time; a dispatcher that was only cut off may claim again, and publishes what it claims later) or
--   claims, unclaimed, lease_s (claims older than this many seconds; unclaimed: also rows that are picked without a claim id); now
--   (NULL: the server's clock).
-- Returns: id, event_id and stream_id (the floor) of each row. A row that is missing was settled meanwhile.
-- Loaded by: dispatcher/upkeep/takeover.py
-- Index: message_outbox_due_idx; walks all that is unsettled, which is affordable because it is rare.
UPDATE ONLY messaging.message_outbox AS o
SET picked_at = clock_timestamp(),
    picked_by = %(self)s,
    claim_id = %(claim_id)s
WHERE o.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.status = 'picked'
      AND (
          (d.picked_by = %(owner)s::bigint AND d.picked_at <= %(fenced_at)s::timestamptz)
          OR (
              (d.claim_id = ANY (%(claims)s::uuid[]) OR (d.claim_id IS NULL AND %(unclaimed)s))
              AND d.picked_at < coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(lease_s)s)
          )
      )
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
RETURNING o.id, o.event_id::text, o.stream_id
