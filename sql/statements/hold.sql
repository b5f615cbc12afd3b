-- Who: relay/stream/bisect.py, before each try of rows it has held for a while. Index: message_outbox_pkey.
-- Renews the lease of rows of one claim, none of which is in the stream now, and moves their floor up: in a Redis whose clock runs
-- behind, new entries may be older than the floor of before its failover. A row missing from the answer: the claim was lost, and the row is not published.
UPDATE messaging.message_outbox AS o
SET picked_at = clock_timestamp(),
    stream_id = %(floor)s
WHERE o.id = ANY (%(ids)s::bigint[])
  AND o.status = 'picked'
  AND o.claim_id = %(claim_id)s
RETURNING o.id
