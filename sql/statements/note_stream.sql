-- note_stream: notes the end of the stream, and moves the window of the audit on when it is time.
-- Parameters: stream, run_id, replid, life (the incarnation and its life), newest_id (of the stream), added (entries, NULL: not told),
--   address (of Redis, as we were given it), turn (mark_at as the caller has seen it for a whole window, in seconds by a clock that is never set; NULL: not yet).
-- Returns: one row: mark_at now, as seconds since 1970. No row: another incarnation or life holds the stream.
-- Loaded by: dispatcher/upkeep/redis_loss.py
-- Index: stream_server_pkey.
UPDATE ONLY messaging.stream_server AS s
SET newest_id = CASE WHEN n.newer THEN %(newest_id)s ELSE s.newest_id END,
    added = CASE WHEN n.newer THEN %(added)s::bigint ELSE s.added END,
    window_id = CASE WHEN n.turns THEN s.mark_id ELSE s.window_id END,
    window_at = CASE WHEN n.turns THEN s.mark_at ELSE s.window_at END,
    mark_id = CASE WHEN n.turns OR s.mark_id IS NULL THEN %(newest_id)s ELSE s.mark_id END,
    addresses = CASE
        WHEN %(address)s::text = ANY (s.addresses) THEN s.addresses
        ELSE (%(address)s::text || s.addresses)[:16]
    END,
    timeline = messaging.this_timeline(),
    mark_at = CASE WHEN n.turns OR s.mark_at IS NULL THEN n.at ELSE least(s.mark_at, n.at) END
FROM (
    SELECT
        k.stream,
        clock_timestamp() AS at,
        k.newest_id IS NULL
            OR messaging.stream_order(%(newest_id)s) >= messaging.stream_order(k.newest_id) AS newer,
        date_part('epoch', k.mark_at) = %(turn)s::double precision AS turns
    FROM ONLY messaging.stream_server AS k
    WHERE k.stream = %(stream)s
    FOR UPDATE
) AS n
WHERE s.stream = n.stream
  AND s.run_id = %(run_id)s
  AND s.replid = %(replid)s
  AND s.life = %(life)s
RETURNING date_part('epoch', s.mark_at)
