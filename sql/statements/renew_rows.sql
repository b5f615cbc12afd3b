-- Who: relay/handlers/relay.py, a few times a lease, for all rows that handlers have in hand. Index: message_outbox_pkey.
-- Renews their lease: whoever has them is alive. A row missing from the answer: the claim was lost.
UPDATE messaging.message_outbox AS o
SET picked_at = clock_timestamp()
FROM unnest(%(ids)s::bigint[], %(claim_ids)s::uuid[]) AS s (id, claim_id)
WHERE o.id BETWEEN s.id AND s.id -- as in settle_sent.sql: an index lookup, whatever the plan was made on
  AND o.claim_id = s.claim_id
  AND o.status = 'picked'
RETURNING o.id, o.claim_id::text
