-- sample: measures the backlog.
-- Parameters: bound (count no further), now (NULL: the server's clock).
-- Returns: one row: unsettled rows; seconds that the oldest of them is overdue (0: none is); share of the notification queue in
--   use. To ask for the last is what lets a queue that was once full advance again.
-- Loaded by: dispatcher/ops/doctor/activity.py, dispatcher/ops/status.py, dispatcher/upkeep/gauges.py
-- Index: message_outbox_due_idx, in its order: a million entries take 40 ms on a vacuumed table, half a second on one that is not.
--   Without ORDER BY a bitmap of the whole index would be built first.
-- Proof events that a `dispatcher prove` left behind, when it was killed, are no backlog: the oldest rows come first.
-- Overdue is judged on the hundred fresh rows that come first, and on the hundred others that are due first (see claim.sql). A row
-- that was tried, or that nobody scheduled, counts from when it occurred, any other from when it was due, so that an event scheduled
-- for later is not late, and one whose handler waits for ever is. A time that Python lacks counts as the nearest that it has: Postgres 16
-- cannot subtract an infinite one.
SELECT
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM ONLY messaging.message_outbox AS o
            WHERE NOT o.settled
            ORDER BY o.next_run_at, o.id
            LIMIT %(bound)s::bigint
        ) AS unsettled
    ) - (
        SELECT count(*)
        FROM (
            SELECT o.event_type
            FROM ONLY messaging.message_outbox AS o
            WHERE NOT o.settled
              AND o.next_run_at <= '1970-01-01 00:00:00+00'
            ORDER BY o.next_run_at, o.id
            LIMIT 1000
        ) AS head
        WHERE head.event_type = 'dispatcher.prove'
    ),
    (
        SELECT greatest(coalesce(max(date_part('epoch', t.now - least(greatest(t.since, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00'))), 0), 0)
        FROM (
            SELECT
                coalesce(%(now)s::timestamptz, clock_timestamp()) AS now,
                CASE
                    WHEN o.attempts > 0 OR o.status = 'retry' OR o.next_run_at <= '1970-01-01 00:00:00+00' THEN o.occurred_at
                    ELSE o.next_run_at
                END AS since
            FROM (
                (
                    SELECT d.attempts, d.status, d.occurred_at, d.next_run_at
                    FROM ONLY messaging.message_outbox AS d
                    WHERE NOT d.settled
                      AND d.next_run_at <= '1970-01-01 00:00:00+00'
                      AND d.event_type <> 'dispatcher.prove'
                    ORDER BY d.next_run_at, d.id
                    LIMIT 100
                )
                UNION ALL
                (
                    SELECT d.attempts, d.status, d.occurred_at, d.next_run_at
                    FROM ONLY messaging.message_outbox AS d
                    WHERE NOT d.settled
                      AND d.next_run_at > '1970-01-01 00:00:00+00'
                      AND d.next_run_at < 'infinity' -- parked; Postgres 16 cannot subtract it
                    ORDER BY d.next_run_at, d.id
                    LIMIT 100
                )
            ) AS o
        ) AS t
    ),
    pg_notification_queue_usage()
