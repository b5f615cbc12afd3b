-- held_check: asks what became of rows that hold their aggregates.
-- Parameters: ids, claims (ids of our own claims that are in flight); types, handled: as for held_load.
-- Returns: id, kind and event_id of each row. our_claim: our claim has it. other_claim: another one has it. parked. retry. holds_nothing: it is
--   scheduled, and was never tried; or it is none of our event types, and parked no more. claimable: it may be claimed. dead, sent. A row that is missing was deleted.
-- Loaded by: dispatcher/relay/order/watch.py
-- Index: message_outbox_pkey.
SELECT
    o.id,
    CASE
        WHEN o.status = 'sent' THEN 'sent'
        WHEN (o.next_run_at < 'infinity' OR o.status = 'dead')
             AND (%(types)s::text[] IS NULL OR (o.event_type = ANY (%(types)s::text[])) = %(handled)s) IS NOT TRUE THEN 'holds_nothing'
        WHEN o.status = 'dead' THEN 'dead'
        WHEN o.status = 'picked' THEN CASE WHEN o.claim_id = ANY (%(claims)s::uuid[]) THEN 'our_claim' ELSE 'other_claim' END
        WHEN o.next_run_at = 'infinity' THEN 'parked'
        WHEN o.status = 'retry' THEN 'retry'
        WHEN o.next_run_at > clock_timestamp() THEN 'holds_nothing'
        ELSE 'claimable'
    END,
    o.event_id::text
FROM unnest(%(ids)s::bigint[]) AS w (id)
CROSS JOIN LATERAL (
    SELECT b.* FROM ONLY messaging.message_outbox AS b WHERE b.id = w.id OFFSET 0
) AS o
