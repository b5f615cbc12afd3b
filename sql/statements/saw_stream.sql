-- Who: upkeep/redis_loss.py, some seconds apart, after an answer of Redis. Index: stream_server_pkey.
-- Notes that this run of Redis still holds the stream. Answer: true, or no row: another run does.
WITH noted AS (
    UPDATE messaging.stream_server AS s
    SET seen_at = clock_timestamp()
    WHERE s.stream = %(stream)s
      AND s.run_id = %(run_id)s
      AND s.replid = %(replid)s
      AND s.seen_at < clock_timestamp() - interval '2 seconds'
)
SELECT true
FROM messaging.stream_server AS s
WHERE s.stream = %(stream)s
  AND s.run_id = %(run_id)s
  AND s.replid = %(replid)s
