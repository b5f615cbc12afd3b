-- forget: deletes old notes of first_time; a consumer calls it from time to time. Index: handled_event_handled_at_idx.
-- Returns: one row, how many were deleted; fewer than `limit`: no older one is left.
WITH forgotten AS (
    DELETE FROM handled_event
    WHERE ctid = ANY (ARRAY(
        SELECT h.ctid
        FROM handled_event AS h
        WHERE h.handled_at < now() - CAST(%(older_than)s AS interval)
        LIMIT %(limit)s
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
