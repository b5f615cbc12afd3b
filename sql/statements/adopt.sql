-- Who: upkeep/takeover.py, once the owner is fenced. Index: message_outbox_due_idx; rare, so walking what is unsettled is
-- affordable. Takes claimed rows over under a claim of our own, from a dead owner (%(owner)s, what it claimed before it was
-- fenced: one that was only cut off may be claiming again, and what it claims now it will publish) or of overdue claims
-- (%(claims)s, which may hold NULL for rows picked without a claim). A row missing from the answer: settled meanwhile.
UPDATE messaging.message_outbox AS o
SET picked_at = clock_timestamp(),
    picked_by = %(self)s,
    claim_id = %(claim_id)s
WHERE o.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM messaging.message_outbox AS d
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
