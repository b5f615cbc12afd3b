-- dead_stats: counts dead events by error and by type.
-- Parameters: event_type, aggregate_type, last_error ('': without an error), each NULL: any; groups (how many of the largest
--   groups).
-- Returns: one row: all dead events, and two JSON arrays of groups: by error, by type.
-- Loaded by: dispatcher/ops/dead_letters/find.py
-- Index: message_outbox_dead_idx; for events without a row message_dlq_open_key, message_outbox_pkey, message_outbox_event_id_key.
--   Reads every dead event, up to statement_timeout.
-- An event is dead if its row says so; if it has no row, if it has an open copy.
WITH dead AS MATERIALIZED (
    SELECT o.event_type, o.aggregate_type, o.last_error
    FROM ONLY messaging.message_outbox AS o
    WHERE o.settled
      AND o.sent_at IS NULL
      AND o.status = 'dead'
      AND (%(event_type)s::text IS NULL OR o.event_type = %(event_type)s)
      AND (%(aggregate_type)s::text IS NULL OR o.aggregate_type = %(aggregate_type)s)
      AND (%(last_error)s::text IS NULL OR coalesce(o.last_error, '') = %(last_error)s)
    UNION ALL
    SELECT d.event_type, d.aggregate_type, d.last_error
    FROM ONLY messaging.message_dlq AS d
    LEFT JOIN ONLY messaging.message_outbox AS o ON o.id = d.outbox_id
    WHERE d.replayed_at IS NULL
      AND CASE
          WHEN o.id IS NULL THEN NOT EXISTS ( -- inserted anew by its producer
              SELECT FROM ONLY messaging.message_outbox AS again WHERE again.event_id = d.event_id
          )
          ELSE o.status = 'dead' AND o.sent_at IS NOT NULL -- not in the first half
      END
      AND (%(event_type)s::text IS NULL OR d.event_type = %(event_type)s)
      AND (%(aggregate_type)s::text IS NULL OR d.aggregate_type = %(aggregate_type)s)
      AND (%(last_error)s::text IS NULL OR coalesce(d.last_error, '') = %(last_error)s)
)
SELECT
    (SELECT count(*) FROM dead),
    (
        SELECT coalesce(json_agg(json_build_object('last_error', g.last_error, 'count', g.events)), '[]')::text
        FROM (
            SELECT last_error, count(*) AS events FROM dead GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(groups)s::bigint
        ) AS g
    ),
    (
        SELECT coalesce(json_agg(json_build_object(
            'event_type', g.event_type, 'aggregate_type', g.aggregate_type, 'count', g.events
        )), '[]')::text
        FROM (
            SELECT event_type, aggregate_type, count(*) AS events
            FROM dead GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT %(groups)s::bigint
        ) AS g
    )
