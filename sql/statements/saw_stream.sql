-- saw_stream: notes that an incarnation of Redis still holds its streams, and says what is known of them.
-- Parameters: streams, run_id, replid (the incarnation).
-- Returns: one row a stream: its name, its life, the newest entry id that was noted, the number of entries that had been added by then
--   and where the window of an audit begins (NULL: not known). A stream that is missing is held by
--   another incarnation.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/stream_server.py
-- Index: stream_server_pkey.
-- seen_at follows the clock when it is set back: an audit counts back from it.
WITH noted AS (
    UPDATE ONLY messaging.stream_server AS s
    SET seen_at = clock_timestamp()
    WHERE s.stream = ANY (%(streams)s::text[])
      AND s.run_id = %(run_id)s
      AND s.replid = %(replid)s
      AND s.seen_at NOT BETWEEN clock_timestamp() - interval '2 seconds' AND clock_timestamp()
)
SELECT s.stream, s.life, s.newest_id, s.added, s.window_id
FROM ONLY messaging.stream_server AS s
WHERE s.stream = ANY (%(streams)s::text[])
  AND s.run_id = %(run_id)s
  AND s.replid = %(replid)s
