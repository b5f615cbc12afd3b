-- Who: stages/doorbell/wake.py, a dispatcher that found nothing to do. Index: message_outbox_due_idx, its head.
-- Answer, always one row: who has the doorbell's key, and seconds until the earliest claimable row is due (NULL: nothing waits).
--   asleep   we got it: writers ring from now on. The second column is older than the key: look again.
--   writers  a writer that stays silent is committing: look again shortly.
--   peer     another dispatcher sleeps on it and is rung.
SELECT
    CASE
        WHEN pg_try_advisory_lock(1869968482, 1) THEN 'asleep'
        WHEN pg_try_advisory_lock_shared(1869968482, 1) AND pg_advisory_unlock_shared(1869968482, 1) THEN 'writers'
        ELSE 'peer'
    END,
    (
        SELECT date_part('epoch', d.next_run_at - clock_timestamp())
        FROM messaging.message_outbox AS d
        WHERE NOT d.settled
          AND d.status <> 'picked'
          AND d.slot < %(slots)s
          AND d.next_run_at < 'infinity' -- parked; Postgres 16 cannot subtract it
        ORDER BY d.next_run_at, d.id
        LIMIT 1
    )
