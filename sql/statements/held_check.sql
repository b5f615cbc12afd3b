-- held_check: asks what became of rows that hold their aggregates.
-- Parameters: ids, claims (ids of our own claims that are in flight).
-- Returns: id, kind and event_id of each row. ours: our claim has it. unknown: another claim has it. parked. retry. waits: it is scheduled, and
--   was never tried. free: it may be claimed. dead, sent. A row that is missing was deleted.
-- Loaded by: dispatcher/relay/order/watch.py
-- Index: message_outbox_pkey.
SELECT
    o.id,
    CASE
        WHEN o.status IN ('sent', 'dead') THEN o.status
        WHEN o.status = 'picked' THEN CASE WHEN o.claim_id = ANY (%(claims)s::uuid[]) THEN 'ours' ELSE 'unknown' END
        WHEN o.next_run_at = 'infinity' THEN 'parked'
        WHEN o.status = 'retry' THEN 'retry'
        WHEN o.next_run_at > clock_timestamp() THEN 'waits'
        ELSE 'free'
    END,
    o.event_id::text
FROM unnest(%(ids)s::bigint[]) AS w (id)
CROSS JOIN LATERAL (
    SELECT b.* FROM ONLY messaging.message_outbox AS b WHERE b.id = w.id OFFSET 0
) AS o
