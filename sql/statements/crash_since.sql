-- Who: upkeep/postgres_crash.py, after a crash of Postgres. Index: newest_entry_pkey; message_outbox_due_idx: rare, so walking what is
-- unsettled is affordable.
-- Answer, one row: an entry id older than any entry of a claim that was forgotten, and one older than any of a claim that was
-- not, too. Since a failover of Redis that the note does not know of yet, entries may be older than the noted one.
-- No row: messaging.newest_entry was emptied by hand.
WITH since AS (
    SELECT least(
        messaging.stream_order(n.stream_id),
        (
            SELECT messaging.stream_order(s.last_id)
            FROM messaging.stream_server AS s
            WHERE s.stream = %(stream)s
              AND s.replid <> n.replid
              AND n.replid <> ''
        )
    ) AS id
    FROM messaging.newest_entry AS n
)
SELECT
    array_to_string(since.id, '-'),
    array_to_string(least(since.id, (
        SELECT min(messaging.stream_order(o.stream_id))
        FROM messaging.message_outbox AS o
        WHERE NOT o.settled
          AND o.status = 'picked'
    )), '-')
FROM since
