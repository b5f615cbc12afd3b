-- pause_set: switches the pause on or off, and wakes every dispatcher at the commit.
-- Parameters: paused, changed_by, reason.
-- Returns: one row. No row: it is so already.
-- Loaded by: dispatcher/ops/pause.py
-- Index: pause_pkey.
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
