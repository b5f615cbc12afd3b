-- audit_stream: puts back rows whose entries Redis has lost; see messaging.audit_stream.
-- Parameters: stream, run_id, replid (the incarnation that holds the stream now), life (the life that lost entries while the server
--   ran on; NULL: none did), last_id (the newest entry id before the loss, or 0-0), below (the oldest entry id after it; NULL: none),
--   newest_id (of the stream as it is), added (entries, of the stream as it is; NULL: not told), why, window_s (seconds), at_most
--   (rows), so_far (rows that this audit put back before), is_default (whether rows whose column stream is NULL are in this one).
-- Returns: one row: rows put back, whether that was all, whether entries may have been lost, the replication id before (NULL: none),
--   the life from now on.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/stream_server.py
-- Index: stream_server_pkey; message_outbox_time_idx when entries may have been lost.
SELECT a.republished, a.done, a.changed, a.was_replid, a.now_life
FROM messaging.audit_stream(
    %(stream)s, %(run_id)s, %(replid)s, %(life)s::bigint, %(last_id)s, %(below)s::text, %(newest_id)s, %(added)s::bigint,
    %(why)s::text, %(window_s)s::double precision, %(at_most)s::integer, %(so_far)s::bigint,
    %(is_default)s::boolean
) AS a
