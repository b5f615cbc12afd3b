-- saw_stream: notes that an incarnation of Redis still holds the stream.
-- Parameters: stream, run_id, replid (the incarnation).
-- Returns: true. No row: another incarnation holds it.
-- Loaded by: dispatcher/upkeep/redis_loss.py
-- Index: stream_server_pkey.
WITH noted AS (
    UPDATE ONLY messaging.stream_server AS s
    SET seen_at = clock_timestamp()
    WHERE s.stream = %(stream)s
      AND s.run_id = %(run_id)s
      AND s.replid = %(replid)s
      AND s.seen_at < clock_timestamp() - interval '2 seconds'
)
SELECT true
FROM ONLY messaging.stream_server AS s
WHERE s.stream = %(stream)s
  AND s.run_id = %(run_id)s
  AND s.replid = %(replid)s
