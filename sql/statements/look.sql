-- look: asks when the next row is due.
-- Parameters: slots (only slots below this number), canaries (whether only events of `dispatcher prove`, or all others), usage
--   (whether to ask for the notification queue).
-- Returns: one row: seconds until the first claimable row is due (0 or less: now; NULL: there is none); share of the notification
--   queue in use (NULL: not asked for).
-- Loaded by: dispatcher/stages/doorbell/due.py
-- Index: message_outbox_due_idx, its head.
SELECT
    (
        SELECT date_part('epoch', d.next_run_at - clock_timestamp())
        FROM ONLY messaging.message_outbox AS d
        WHERE NOT d.settled
          AND d.status <> 'picked'
          AND (%(slots)s::integer > 255 OR (hashtextextended(d.aggregate_id, 0) & 255) < %(slots)s)
          AND (d.event_type = 'dispatcher.prove') = %(canaries)s
          AND d.next_run_at < 'infinity' -- parked; Postgres 16 cannot subtract it
        ORDER BY d.next_run_at, d.id
        LIMIT 1
    ),
    CASE WHEN %(usage)s THEN pg_notification_queue_usage() END
