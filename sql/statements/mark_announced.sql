-- mark_announced: notes that the next entries of dead events' aggregates went out, with the field after_dead.
-- Parameters: ids (of the dead events' rows).
-- Returns: nothing.
-- Loaded by: dispatcher/relay/order/watch.py
-- Index: message_dlq_open_key.
UPDATE ONLY messaging.message_dlq AS d
SET followed_at = clock_timestamp()
WHERE d.outbox_id = ANY (%(ids)s::bigint[])
  AND d.replayed_at IS NULL
