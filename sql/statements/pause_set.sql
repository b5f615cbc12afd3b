-- Who: ops/pause.py, for `dispatcher pause` and `resume`. Index: pause_pkey.
-- Switches, and rings every dispatcher once this is committed. No row: it is as wanted already.
WITH switched AS (
    INSERT INTO messaging.pause AS p (generation, paused, changed_by, reason)
    VALUES (1, %(paused)s, %(changed_by)s, %(reason)s)
    ON CONFLICT (only_row) DO UPDATE
    SET generation = p.generation + 1,
        paused = excluded.paused,
        changed_at = clock_timestamp(),
        changed_by = excluded.changed_by,
        reason = excluded.reason
    WHERE p.paused <> excluded.paused
    RETURNING p.generation
)
SELECT s.generation, pg_notify('outbox_control', '')::text
FROM switched AS s
