-- forget: deletes old notes of first_time; a consumer calls it from time to time. Index: handled_event_handled_at_idx.
-- Fewer rows deleted than `limit`: no older one is left.
-- Where the table is partitioned or has children, a young row may have the place (ctid) of an old one: the age is asked twice.
DELETE FROM handled_event
WHERE ctid = ANY (ARRAY(
    SELECT h.ctid
    FROM handled_event AS h
    WHERE h.handled_at < now() - CAST(%(older_than)s AS interval)
    LIMIT %(limit)s
))
  AND handled_at < now() - CAST(%(older_than)s AS interval)
