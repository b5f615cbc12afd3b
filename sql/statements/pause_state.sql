-- pause_state: reads the pause switch, and which layout stands.
-- Parameters: none.
-- Returns: one row: generation (0: never paused), whether claims are stopped, since when, by whom, why; the fingerprint of the layout
--   ('': one stream), and whether it has an order.
-- Loaded by: dispatcher/ops/pause.py, dispatcher/upkeep/pause.py
-- Index: none; one row.
SELECT
    coalesce(p.generation, 0),
    coalesce(p.paused, false),
    p.changed_at,
    p.changed_by,
    p.reason,
    coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), ''),
    EXISTS (SELECT FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order' = 'aggregate')
FROM (SELECT) AS always
LEFT JOIN ONLY messaging.pause AS p ON true
