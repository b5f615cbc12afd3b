-- doze: tries to take the doorbell's key, and asks when the next row is due: the last statement before a dispatcher sleeps.
-- Parameters: slots (only slots below this number), canaries (whether only events of `dispatcher prove`, or all others).
-- Returns: one row: who has the key (below); seconds until the first claimable row is due (NULL: there is none).
-- Loaded by: dispatcher/stages/doorbell/wake.py
-- Index: message_outbox_due_idx, its head.
-- asleep: we have it, and writers ring from now on; the second column is older than that, so ask once more. writers: a writer that
-- does not ring is committing; ask again shortly. peer: another dispatcher sleeps and is the one to be rung.
SELECT
    CASE
        WHEN pg_try_advisory_lock(1869968482, 1) THEN 'asleep'
        WHEN pg_try_advisory_lock_shared(1869968482, 1) AND pg_advisory_unlock_shared(1869968482, 1) THEN 'writers'
        ELSE 'peer'
    END,
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
    )
