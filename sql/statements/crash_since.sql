-- crash_since: says where the search of the stream begins after a crash of Postgres.
-- Parameters: streams.
-- Returns: one row: an entry id older than any entry of a lost claim, and one that is also older than any entry of a claim that was
--   kept. After a failover of Redis that the note does not show yet, entries may be older than the noted one. No row:
--   messaging.newest_entry was emptied by hand.
-- Loaded by: dispatcher/upkeep/postgres_crash.py
-- Index: newest_entry_pkey; message_outbox_due_idx, all that is unsettled, which is affordable because it is rare.
WITH since AS (
    SELECT least(
        messaging.stream_order(n.stream_id),
        (
            SELECT min(messaging.stream_order(s.last_id))
            FROM ONLY messaging.stream_server AS s
            WHERE s.stream = ANY (%(streams)s::text[])
              AND s.replid <> n.replid
              AND n.replid <> ''
        )
    ) AS id
    FROM ONLY messaging.newest_entry AS n
)
SELECT
    array_to_string(since.id, '-'),
    array_to_string(least(since.id, (
        SELECT min(messaging.stream_order(o.stream_id))
        FROM ONLY messaging.message_outbox AS o
        WHERE NOT o.settled
          AND o.status = 'picked'
          AND o.event_type <> 'dispatcher.prove' -- its floor is of another stream
    )), '-')
FROM since
