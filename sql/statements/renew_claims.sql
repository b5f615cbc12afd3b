-- renew_claims: renews the lease of claimed rows, so that no other dispatcher takes them over while their owner works on them.
-- Parameters: ids, claim_ids (one a row: the claim that it belongs to), floor (an entry id: the new floor of these rows, none of
--   which is in the stream now; in a Redis whose clock runs behind, new entries may be older than the floor from before its
--   failover; or the mark of a row whose handler is about to begin. NULL: the floors stay).
-- Returns: id and claim_id of each row that still bears its claim. A row that is missing was lost to another claim, or is settled.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/relay/lease_renewer.py, dispatcher/stages/settle.py, dispatcher/upkeep/adopted.py
-- Index: message_outbox_pkey.
-- BETWEEN: see settle_sent.sql.
UPDATE ONLY messaging.message_outbox AS o
SET picked_at = (SELECT clock_timestamp()), -- one reading: see list_claims.sql
    stream_id = coalesce(%(floor)s::text, o.stream_id)
FROM unnest(%(ids)s::bigint[], %(claim_ids)s::uuid[]) AS s (id, claim_id)
WHERE o.id BETWEEN s.id AND s.id
  AND o.claim_id = s.claim_id
  AND o.status = 'picked'
RETURNING o.id, o.claim_id::text
