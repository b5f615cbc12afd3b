-- layout_state: reads the layout that stands, and what is known of keys before it.
-- Parameters: none.
-- Returns: one row: fingerprint ('': one stream), spec (NULL: none was ever set), keys, former keys, streams that some Redis was seen to
--   hold, how often it was set, when, by whom.
-- Loaded by: dispatcher/ops/doctor/activity.py, dispatcher/ops/held/find.py, dispatcher/ops/layout.py
-- Index: none; one row, and one a stream.
SELECT
    coalesce(l.fingerprint, ''),
    l.spec,
    coalesce(l.keys, '{}'),
    coalesce(l.former, '{}'),
    ARRAY(SELECT s.stream FROM ONLY messaging.stream_server AS s ORDER BY s.stream),
    coalesce(l.generation, 0),
    l.changed_at,
    l.changed_by
FROM (SELECT) AS always
LEFT JOIN ONLY messaging.layout AS l ON true
