-- Who: stages/wake.py, a dispatcher that found nothing to do. Index: message_outbox_due_idx, its head.
-- Answer, always one row: who has the doorbell's keys, and seconds until the earliest claimable row is due (NULL: nothing waits).
--   asleep   we got all: writers ring from now on. The second column is older than the keys: look again.
--   writers  a writer that stays silent is committing: look again shortly. What we got of the keys is let go.
--   peer     another dispatcher sleeps, with all of them, and is rung.
WITH tried AS MATERIALIZED (
    SELECT k.key, pg_try_advisory_lock(1869968482, k.key) AS got FROM generate_series(1000, 1031) AS k (key)
),
verdict AS MATERIALIZED (
    SELECT bool_and(t.got) AS all_keys, bool_or(t.got) AS some FROM tried AS t
),
undone AS MATERIALIZED (
    SELECT count(pg_advisory_unlock(1869968482, t.key)) AS keys
    FROM tried AS t CROSS JOIN verdict AS v
    WHERE t.got AND NOT v.all_keys
)
SELECT
    CASE
        WHEN v.all_keys THEN 'asleep'
        WHEN v.some THEN 'writers'
        WHEN pg_try_advisory_lock_shared(1869968482, 1000) AND pg_advisory_unlock_shared(1869968482, 1000) THEN 'writers'
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
FROM verdict AS v CROSS JOIN undone AS u
