-- mark_unbroken: allows claims again after the stream was searched, and wakes the dispatchers that sleep.
-- Parameters: none.
-- Returns: one row.
-- Loaded by: dispatcher/ops/trials.py, dispatcher/upkeep/postgres_crash.py
-- Index: unbroken_pkey.
WITH marked AS (
    INSERT INTO messaging.unbroken AS u DEFAULT VALUES
    ON CONFLICT (one) DO UPDATE SET marked = excluded.marked WHERE u.xmin <> u.marked
)
SELECT pg_notify('outbox_backlog', '')
