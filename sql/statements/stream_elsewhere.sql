-- stream_elsewhere: asks what tells the Redis of this outbox from that of a clone of it.
-- Parameters: streams, address (of the Redis that we were given).
-- Returns: one row for each stream that some Redis has held: its name; whether Postgres lost no claim in a crash; whether the address and the timeline are known; entry ids that the stream
--   held.
-- Loaded by: dispatcher/upkeep/clone.py
-- Index: stream_server_pkey.
SELECT
    s.stream,
    EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked)),
    (cardinality(s.addresses) = 0 OR %(address)s::text = ANY (s.addresses))
        AND coalesce(s.timeline = messaging.this_timeline(), true),
    array_remove(ARRAY[s.newest_id, s.mark_id, s.window_id, s.last_id], NULL)
FROM ONLY messaging.stream_server AS s
WHERE s.stream = ANY (%(streams)s::text[])
