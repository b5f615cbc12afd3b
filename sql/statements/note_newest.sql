-- note_newest: notes the newest entry that we know, unless a search after a crash is due, or another data set of Redis holds the
--   stream.
-- Parameters: streams (of the layout), layout (the fingerprint of ours), floor (the entry id; NULL: none), replid (its data set; '': Redis does not tell),
--   several (whether the streams lie on several servers), may_fall (whether a lower one is noted too: it was read from Redis's clock, which
--   was set back)
-- Returns: one row: false if Postgres may have lost claims and settles, so that the stream must be searched first; the fingerprint of
--   the layout that stands: of another one than ours the first is false too.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/postgres_crash.py
-- Index: newest_entry_pkey, unbroken_pkey, stream_server_pkey; one row each.
WITH noted AS (
    UPDATE ONLY messaging.newest_entry AS n
    SET stream_id = %(floor)s::text,
        replid = %(replid)s::text
    WHERE EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked) AND u.layout = %(layout)s)
      AND CASE
          WHEN n.replid = %(replid)s::text
          THEN messaging.stream_order(%(floor)s::text) > messaging.stream_order(n.stream_id)
              OR (%(may_fall)s AND messaging.stream_order(%(floor)s::text) < messaging.stream_order(n.stream_id))
          ELSE %(floor)s::text IS NOT NULL AND NOT EXISTS (
              -- of several data sets none is named, and none of them can be another one
              SELECT
              FROM ONLY messaging.stream_server AS s
              WHERE s.stream = ANY (%(streams)s::text[])
                AND s.replid <> %(replid)s::text
                AND NOT %(several)s::boolean
          )
      END
)
SELECT
    EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked) AND u.layout = %(layout)s),
    coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), '')
