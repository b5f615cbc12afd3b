-- dead_stats: counts dead events by the code of their error and by type.
-- Parameters: event_type, aggregate_type, aggregate_id, last_error ('': without an error), error_code (as messaging.error_code makes it), error_like
--   (contained, in any case), each NULL: any; groups (how many of the largest groups).
-- Returns: one row: all dead events, and two JSON arrays of groups: by code, by type. Of a group by code: the newest error, how many
--   different texts it has, its event types (at most five), when the first and the last event died (or was claimed last), and the least
--   and greatest of each figure that is not the same in all texts.
-- Loaded by: dispatcher/ops/dead_letters/find.py
-- Index: message_outbox_dead_idx; for events without a row message_dlq_open_key, message_outbox_pkey, message_outbox_event_id_key.
--   Reads every dead event, up to statement_timeout.
-- An event is dead if its row says so; if it has no row, if it has an open copy.
WITH dead AS MATERIALIZED (
    SELECT o.id, o.event_type, o.aggregate_type, o.last_error, coalesce(o.picked_at, o.occurred_at) AS died_at
    FROM ONLY messaging.message_outbox AS o
    WHERE o.settled
      AND o.sent_at IS NULL
      AND o.status = 'dead'
      AND (%(event_type)s::text IS NULL OR o.event_type = %(event_type)s)
      AND (%(aggregate_type)s::text IS NULL OR o.aggregate_type = %(aggregate_type)s)
      AND (%(aggregate_id)s::text IS NULL OR o.aggregate_id = %(aggregate_id)s)
      AND (%(last_error)s::text IS NULL OR coalesce(o.last_error, '') = %(last_error)s)
      AND (%(error_code)s::text IS NULL OR messaging.error_code(o.last_error) = %(error_code)s)
      AND (%(error_like)s::text IS NULL OR position(lower(%(error_like)s::text) IN lower(o.last_error)) > 0)
    UNION ALL
    SELECT d.outbox_id, d.event_type, d.aggregate_type, d.last_error, d.died_at
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
      AND (%(aggregate_id)s::text IS NULL OR d.aggregate_id = %(aggregate_id)s)
      AND (%(last_error)s::text IS NULL OR coalesce(d.last_error, '') = %(last_error)s)
      AND (%(error_code)s::text IS NULL OR messaging.error_code(d.last_error) = %(error_code)s)
      AND (%(error_like)s::text IS NULL OR position(lower(%(error_like)s::text) IN lower(d.last_error)) > 0)
),
texts AS MATERIALIZED ( -- first by text, so that each is looked at once
    SELECT t.*, messaging.error_code(t.last_error) AS code
    FROM (
        SELECT d.last_error, d.event_type, count(*) AS events, max(d.id) AS newest, min(d.died_at) AS first, max(d.died_at) AS last
        FROM dead AS d
        GROUP BY 1, 2
    ) AS t
),
codes AS MATERIALIZED (
    SELECT
        t.code,
        sum(t.events)::bigint AS events,
        count(DISTINCT t.last_error) AS texts,
        (array_agg(t.last_error ORDER BY t.newest DESC))[1] AS last_error,
        (array_agg(DISTINCT left(t.event_type, 1000)))[1:5] AS event_types,
        min(t.first) AS first,
        max(t.last) AS last
    FROM texts AS t
    GROUP BY 1
    ORDER BY 2 DESC, 1
    LIMIT %(groups)s::bigint
),
figures AS MATERIALIZED (
    SELECT f.code, json_agg(json_build_array(f.least, f.greatest) ORDER BY f.place) AS figures
    FROM (
        SELECT t.code, m.place, min(m.found[1]::numeric) AS least, max(m.found[1]::numeric) AS greatest
        FROM texts AS t
        CROSS JOIN LATERAL regexp_matches(messaging.error_figures(t.last_error), '[0-9]+', 'g') WITH ORDINALITY AS m (found, place)
        WHERE t.code IN (SELECT c.code FROM codes AS c WHERE c.texts > 1)
        GROUP BY 1, 2
    ) AS f
    WHERE f.least <> f.greatest
    GROUP BY 1
)
SELECT
    (SELECT count(*) FROM dead),
    (
        SELECT coalesce(json_agg(json_build_object(
            'code', c.code,
            'last_error', c.last_error,
            'count', c.events,
            'texts', c.texts,
            'figures', coalesce(f.figures, '[]'),
            'event_types', c.event_types,
            'first_at', to_char(c.first AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'last_at', to_char(c.last AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        ) ORDER BY c.events DESC, c.code), '[]')::text
        FROM codes AS c
        LEFT JOIN figures AS f ON f.code = c.code
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
