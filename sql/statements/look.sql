-- Who: stages/doorbell/wake.py, the look after the doorbell's key was got and the look of an idle tick.
-- Index: message_outbox_due_idx, its head. Answer, always one row: seconds until the earliest claimable row is due (0 or
-- less: now; NULL: nothing is waiting), and what share of the notification queue is in use (NULL: not asked for).
SELECT
    (
        SELECT date_part('epoch', d.next_run_at - clock_timestamp())
        FROM messaging.message_outbox AS d
        WHERE NOT d.settled
          AND d.status <> 'picked'
          AND d.slot < %(slots)s
          AND d.next_run_at < 'infinity' -- parked; Postgres 16 cannot subtract it
        ORDER BY d.next_run_at, d.id
        LIMIT 1
    ),
    CASE WHEN %(usage)s THEN pg_notification_queue_usage() END
