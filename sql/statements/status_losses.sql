-- status_losses: lists the streams that lost entries, and the last time that an audit found it.
-- Parameters: none.
-- Returns: one row a stream that ever did: its name, when, how many rows were put back, what had happened, and whether it was within
--   the last day.
-- Loaded by: dispatcher/ops/doctor/activity.py, dispatcher/ops/status.py, dispatcher/upkeep/gauges.py
-- Index: none; one row a stream.
SELECT
    s.stream,
    s.lost_at,
    s.lost_rows,
    s.lost_why,
    abs(date_part('epoch', clock_timestamp() - s.lost_at)) < 86400
FROM ONLY messaging.stream_server AS s
WHERE s.lost_at IS NOT NULL
ORDER BY s.lost_at DESC
