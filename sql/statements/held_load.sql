-- held_load: reads what is held in slots that we have just got.
-- Parameters: mask (32 bytes: these slots), claims (ids of our own claims that are in flight), hold (whether a dead event holds the later
--   ones of its aggregate), most (dead events that are read), types, handled (true: of these event types only; false: of all others;
--   types NULL: of all).
-- Returns: id, key of the aggregate (see claim.sql), kind and event_id of each row. retry: it was tried before, or its handler waits. parked.
--   other_claim: it is picked by a claim that is not ours. dead: with hold. after: a dead event that no next entry (field after_dead) has named yet.
-- Loaded by: dispatcher/relay/order/watch.py
-- Index: message_outbox_due_idx, all that is unsettled, which is affordable because it is rare; message_outbox_dead_idx; message_dlq_open_key.
SELECT
    h.id,
    (hashtextextended(h.aggregate_type, hashtextextended(h.aggregate_id, 0)) & -256) | (hashtextextended(h.aggregate_id, 0) & 255),
    h.kind,
    h.event_id::text
FROM (
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.event_id,
           CASE WHEN d.status = 'picked' THEN 'other_claim' WHEN d.next_run_at = 'infinity' THEN 'parked' ELSE 'retry' END AS kind
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND (
          (d.status = 'picked' AND (d.claim_id = ANY (%(claims)s::uuid[])) IS NOT TRUE)
          OR (d.status <> 'picked' AND (d.attempts > 0 OR d.status = 'retry' OR d.next_run_at = 'infinity'))
      )
      AND d.event_type <> 'dispatcher.prove'
      AND (%(types)s::text[] IS NULL OR (d.event_type = ANY (%(types)s::text[])) = %(handled)s)
    UNION ALL
    (
        SELECT d.id, d.aggregate_type, d.aggregate_id, d.event_id, 'dead'
        FROM ONLY messaging.message_outbox AS d
        WHERE %(hold)s::boolean
          AND d.settled
          AND d.sent_at IS NULL
          AND d.status = 'dead'
          AND (%(types)s::text[] IS NULL OR (d.event_type = ANY (%(types)s::text[])) = %(handled)s)
        ORDER BY d.id DESC
    )
    UNION ALL
    (
        SELECT c.outbox_id, c.aggregate_type, c.aggregate_id, c.event_id, 'after'
        FROM ONLY messaging.message_dlq AS c
        WHERE NOT %(hold)s::boolean
          AND c.replayed_at IS NULL
          AND c.followed_at IS NULL
          AND (%(types)s::text[] IS NULL OR (c.event_type = ANY (%(types)s::text[])) = %(handled)s)
        ORDER BY c.outbox_id DESC
        LIMIT %(most)s
    )
) AS h
WHERE get_bit(%(mask)s::bytea, hashtextextended(h.aggregate_id, 0) & 255) = 1
