-- mark_unbroken: allows claims again after the stream was searched, and wakes the dispatchers that sleep.
-- Parameters: layout (the fingerprint of ours; where another one stands, nothing is allowed).
-- Returns: one row.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/postgres_crash.py
-- Index: unbroken_pkey.
WITH marked AS (
    INSERT INTO messaging.unbroken AS u (layout, marked, sealed)
    SELECT %(layout)s, CASE WHEN %(layout)s = '' THEN x.id END, CASE WHEN %(layout)s <> '' THEN x.id END
    FROM (SELECT pg_current_xact_id()::xid) AS x (id)
    WHERE %(layout)s = coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), '')
    ON CONFLICT (one) DO UPDATE
    SET layout = excluded.layout, marked = excluded.marked, sealed = excluded.sealed
    WHERE u.xmin <> coalesce(u.sealed, u.marked) OR u.layout <> excluded.layout
)
SELECT pg_notify('outbox_backlog', '')
