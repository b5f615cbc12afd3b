-- note_stream: notes the ends of streams, and moves the windows of the audit on when it is time.
-- Parameters: run_id, replid (the incarnation that holds them), address (of Redis, as we were given it); one a stream: streams, lives,
--   newest_ids (of the stream), entries (that were ever added, NULL: not told), seen_marks (mark_at as the caller has seen it for a whole window, in seconds
--   by a clock that is never set; NULL: not yet).
-- Returns: one row a stream: its name, and mark_at now, as seconds since 1970. A stream that is missing is held by another incarnation,
--   or in another life.
-- Loaded by: dispatcher/upkeep/stream_server.py
-- Index: stream_server_pkey.
UPDATE ONLY messaging.stream_server AS s
SET newest_id = CASE WHEN n.newer THEN n.newest_id ELSE s.newest_id END,
    added = CASE WHEN n.newer THEN n.added ELSE s.added END,
    window_id = CASE WHEN n.is_over THEN s.mark_id ELSE s.window_id END,
    window_at = CASE WHEN n.is_over THEN s.mark_at ELSE s.window_at END,
    mark_id = CASE WHEN n.is_over OR s.mark_id IS NULL THEN n.newest_id ELSE s.mark_id END,
    addresses = CASE
        WHEN %(address)s::text = ANY (s.addresses) THEN s.addresses
        ELSE (%(address)s::text || s.addresses)[:16]
    END,
    timeline = messaging.this_timeline(),
    mark_at = CASE WHEN n.is_over OR s.mark_at IS NULL THEN n.at ELSE least(s.mark_at, n.at) END
FROM (
    SELECT
        k.stream,
        w.life,
        w.newest_id,
        w.added,
        clock_timestamp() AS at,
        k.newest_id IS NULL
            OR messaging.stream_order(w.newest_id) >= messaging.stream_order(k.newest_id) AS newer,
        date_part('epoch', k.mark_at) = w.mark AS is_over
    FROM unnest(
        %(streams)s::text[], %(lives)s::bigint[], %(newest_ids)s::text[], %(entries)s::bigint[], %(seen_marks)s::double precision[]
    ) AS w (stream, life, newest_id, added, mark)
    JOIN ONLY messaging.stream_server AS k ON k.stream = w.stream
    ORDER BY k.stream -- two that note the same streams must not wait for each other
    FOR UPDATE OF k
) AS n
WHERE s.stream = n.stream
  AND s.run_id = %(run_id)s
  AND s.replid = %(replid)s
  AND s.life = n.life
RETURNING s.stream, date_part('epoch', s.mark_at)
