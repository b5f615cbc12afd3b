-- Who: the consumer, from time to time. Index: handled_event_handled_at_idx; rows are in about the order of their time.
-- Fewer rows deleted than `limit`: no older one is left.
DELETE FROM handled_event
WHERE ctid = ANY (ARRAY(
    SELECT h.ctid
    FROM handled_event AS h
    WHERE h.handled_at < now() - CAST(%(older_than)s AS interval)
    LIMIT %(limit)s
))
