-- Who: upkeep/redis_loss.py, on each new connection to Redis, before anything is published on it. Index: stream_server_pkey;
-- message_outbox_time_idx when another run of Redis than before holds the stream.
-- Answer, always one row: rows put back, whether that was all, whether the run is another one, the replication id before (NULL: none).
SELECT a.republished, a.done, a.changed, a.was_replid
FROM messaging.audit_stream(
    %(stream)s, %(run_id)s, %(replid)s, %(last_id)s, %(window_s)s::double precision, %(at_most)s::integer
) AS a
