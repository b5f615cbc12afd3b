-- Who: upkeep/postgres_crash.py, about once a second. Index: newest_entry_pkey, unbroken_pkey, stream_server_pkey; one row each.
-- Notes the newest entry known (%(floor)s; NULL: none), unless an audit is due, or another data set of Redis holds the stream.
-- Answer, always one row: false when Postgres may have forgotten claims and settles: the stream must be looked through first.
WITH noted AS (
    UPDATE messaging.newest_entry AS n
    SET stream_id = %(floor)s::text,
        replid = %(replid)s::text
    WHERE EXISTS (SELECT FROM messaging.unbroken)
      AND CASE
          WHEN n.replid = %(replid)s::text
          THEN messaging.stream_order(%(floor)s::text) > messaging.stream_order(n.stream_id)
          ELSE %(floor)s::text IS NOT NULL AND NOT EXISTS (
              SELECT
              FROM messaging.stream_server AS s
              WHERE s.stream = %(stream)s
                AND s.replid <> %(replid)s::text
          )
      END
)
SELECT EXISTS (SELECT FROM messaging.unbroken)
