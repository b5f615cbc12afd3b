-- saw_stream: notes that an incarnation of Redis still holds the stream, and says what is known of the stream.
-- Parameters: stream, run_id, replid (the incarnation).
-- Returns: one row: the life of the stream, the newest entry id that was noted, the number of entries that had been added by then
--   and where the window of an audit begins (NULL: not known). No row: another incarnation holds the stream.
-- Loaded by: dispatcher/ops/trials.py, dispatcher/upkeep/redis_loss.py
-- Index: stream_server_pkey.
-- seen_at follows the clock when it is set back: an audit counts back from it.
WITH noted AS (
    UPDATE ONLY messaging.stream_server AS s
    SET seen_at = clock_timestamp()
    WHERE s.stream = %(stream)s
      AND s.run_id = %(run_id)s
      AND s.replid = %(replid)s
      AND s.seen_at NOT BETWEEN clock_timestamp() - interval '2 seconds' AND clock_timestamp()
)
SELECT s.life, s.newest_id, s.added, s.window_id
FROM ONLY messaging.stream_server AS s
WHERE s.stream = %(stream)s
  AND s.run_id = %(run_id)s
  AND s.replid = %(replid)s
