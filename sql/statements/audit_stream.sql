-- audit_stream: puts back rows whose entries a new incarnation of Redis has lost; see messaging.audit_stream.
-- Parameters: stream, run_id, replid (the incarnation that holds the stream now), last_id (its newest entry id, or 0-0), window_s
--   (seconds), at_most (rows).
-- Returns: one row: rows put back, whether that was all, whether the incarnation is a new one, the replication id before (NULL:
--   none).
-- Loaded by: dispatcher/upkeep/redis_loss.py
-- Index: stream_server_pkey; message_outbox_time_idx when the incarnation is a new one.
SELECT a.republished, a.done, a.changed, a.was_replid
FROM messaging.audit_stream(
    %(stream)s, %(run_id)s, %(replid)s, %(last_id)s, %(window_s)s::double precision, %(at_most)s::integer
) AS a
