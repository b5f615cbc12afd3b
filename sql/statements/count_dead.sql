-- count_dead: counts dead events, for the gauges and the console.
-- Parameters: bound (count no further, and look at ten times as many of the newest rows, and of the newest copies).
-- Returns: one row: dead events, counted as dead_stats counts them; JSON that says when the newest of them died (`at`, Unix seconds)
--   and of what (`error`); NULL: the hundred newest copies hold no dead event.
-- Loaded by: dispatcher/ops/doctor/activity.py, dispatcher/ops/outbox_events.py, dispatcher/ops/status.py, dispatcher/upkeep/gauges.py
-- Index: message_outbox_dead_idx, message_dlq_open_key, message_dlq_died_at_idx, and the keys of message_outbox.
SELECT
    (
        SELECT count(*)
        FROM (
            (
                SELECT
                FROM (
                    SELECT o.status
                    FROM ONLY messaging.message_outbox AS o
                    WHERE o.settled
                      AND o.sent_at IS NULL
                    ORDER BY o.id DESC
                    LIMIT %(bound)s::bigint * 10
                ) AS o
                WHERE o.status = 'dead'
                LIMIT %(bound)s::bigint
            )
            UNION ALL
            (
                SELECT
                FROM (
                    SELECT c.outbox_id, c.event_id
                    FROM ONLY messaging.message_dlq AS c
                    WHERE c.replayed_at IS NULL
                    ORDER BY c.outbox_id DESC
                    LIMIT %(bound)s::bigint * 10
                ) AS d
                LEFT JOIN LATERAL ( -- row by row: never the whole outbox
                    SELECT r.id, r.status, r.sent_at FROM ONLY messaging.message_outbox AS r WHERE r.id = d.outbox_id LIMIT 1
                ) AS o ON true
                WHERE CASE
                    WHEN o.id IS NULL THEN NOT EXISTS ( -- inserted anew by its producer
                        SELECT FROM ONLY messaging.message_outbox AS again WHERE again.event_id = d.event_id
                    )
                    ELSE o.status = 'dead' AND o.sent_at IS NOT NULL -- not in the first half
                END
                LIMIT %(bound)s::bigint
            )
            LIMIT %(bound)s::bigint
        ) AS dead
    ),
    (
        SELECT json_build_object('at', date_part('epoch', least(greatest(newest.died_at, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00')), 'error', newest.last_error)::text
        FROM (
            SELECT d.outbox_id, d.died_at, d.replayed_at, d.last_error
            FROM ONLY messaging.message_dlq AS d
            ORDER BY d.died_at DESC
            LIMIT 100
        ) AS newest
        LEFT JOIN ONLY messaging.message_outbox AS o ON o.id = newest.outbox_id
        WHERE newest.replayed_at IS NULL
          AND coalesce(o.status, 'dead') = 'dead'
        ORDER BY newest.died_at DESC
        LIMIT 1
    )
