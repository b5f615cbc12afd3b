-- Who: upkeep/survey.py, every 5 s while somebody watches the console. Index: message_dlq_open_key, message_dlq_died_at_idx, and the
-- keys of message_outbox.
-- Answer, always one row: dead events with an open copy, counted up to %(bound)s; when the newest of them died, NULL when none of the
-- hundred newest copies is one. Open copies of rows that were replayed by a plain UPDATE are passed over: they are dead no more.
SELECT
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM messaging.message_dlq AS d
            LEFT JOIN messaging.message_outbox AS o ON o.id = d.outbox_id
            WHERE d.replayed_at IS NULL
              AND coalesce(o.status, 'dead') = 'dead'
            LIMIT %(bound)s::bigint
        ) AS dead
    ),
    (
        SELECT max(newest.died_at)
        FROM (
            SELECT d.outbox_id, d.died_at, d.replayed_at
            FROM messaging.message_dlq AS d
            ORDER BY d.died_at DESC
            LIMIT 100
        ) AS newest
        LEFT JOIN messaging.message_outbox AS o ON o.id = newest.outbox_id
        WHERE newest.replayed_at IS NULL
          AND coalesce(o.status, 'dead') = 'dead'
    )
