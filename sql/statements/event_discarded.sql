-- event_discarded: reads a page of discarded and skipped events, those that died last first, with who decided it, when and why.
-- Parameters: before_us, before_id (the key of the event before: when it died, in microseconds since 1970, and its id; NULL:
--   from the newest), window (copies to look at), limit, event_type, aggregate_type, aggregate_id, last_error ('': without one),
--   error_code (as messaging.error_code makes it), error_like (contained, in any case), each NULL: any.
-- Returns: one row: a JSON array of the events, and the key of the next page (NULL: there is none).
-- Loaded by: dispatcher/ops/outbox_events.py
-- Index: message_dlq_died_at_idx, no further than the window; message_history_event_idx.
WITH seen AS MATERIALIZED (
    SELECT d.*
    FROM ONLY messaging.message_dlq AS d
    WHERE %(before_us)s::bigint IS NULL
       OR (d.died_at, d.outbox_id) < (timestamptz 'epoch' + %(before_us)s::bigint * interval '1 microsecond', %(before_id)s::bigint)
    ORDER BY d.died_at DESC, d.outbox_id DESC
    LIMIT %(window)s::bigint
),
page AS MATERIALIZED (
    SELECT s.*
    FROM seen AS s
    WHERE s.discarded_at IS NOT NULL
      AND (%(event_type)s::text IS NULL OR s.event_type = %(event_type)s)
      AND (%(aggregate_type)s::text IS NULL OR s.aggregate_type = %(aggregate_type)s)
      AND (%(aggregate_id)s::text IS NULL OR s.aggregate_id = %(aggregate_id)s)
      AND (%(last_error)s::text IS NULL OR coalesce(s.last_error, '') = %(last_error)s)
      AND (%(error_code)s::text IS NULL OR messaging.error_code(s.last_error) = %(error_code)s)
      AND (%(error_like)s::text IS NULL OR position(lower(%(error_like)s::text) IN lower(s.last_error)) > 0)
    ORDER BY s.died_at DESC, s.outbox_id DESC
    LIMIT %(limit)s::bigint
),
last AS (
    SELECT l.died_at, l.outbox_id
    FROM (
        SELECT p.died_at, p.outbox_id FROM page AS p WHERE (SELECT count(*) FROM page) = %(limit)s
        UNION ALL
        -- the window's last one
        SELECT s.died_at, s.outbox_id FROM seen AS s WHERE (SELECT count(*) FROM page) < %(limit)s AND (SELECT count(*) FROM seen) = %(window)s
    ) AS l
    ORDER BY l.died_at, l.outbox_id
    LIMIT 1
)
SELECT
    (
        SELECT coalesce(json_agg(json_build_object(
            'id', p.outbox_id,
            'event_id', p.event_id,
            'message_id', p.message_id,
            'event_type', left(p.event_type, 1000),
            'aggregate_type', left(p.aggregate_type, 1000),
            'aggregate_id', left(p.aggregate_id, 1000),
            'status', 'discarded',
            'attempts', p.attempts,
            'due_at', NULL,
            'occurred_at', to_char(p.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'picked_at', NULL,
            'picked_by', NULL,
            'sent_at', NULL,
            'stream_id', NULL,
            'last_error', p.last_error,
            'in_outbox', false,
            'discarded', (
                SELECT json_build_object(
                    'at', to_char(coalesce(h.at, p.discarded_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                    'by', h.actor,
                    'reason', h.error
                )
                FROM (SELECT) AS always
                LEFT JOIN LATERAL ( -- none: its history was pruned
                    SELECT n.at, n.actor, n.error
                    FROM ONLY messaging.message_history AS n
                    WHERE n.outbox_id = p.outbox_id AND n.what IN ('discarded', 'skipped')
                    ORDER BY n.at DESC
                    LIMIT 1
                ) AS h ON true
            )
        ) ORDER BY p.died_at DESC, p.outbox_id DESC), '[]')::text
        FROM page AS p
    ),
    (SELECT l.outbox_id || '_' || (extract(epoch FROM l.died_at) * 1000000)::bigint FROM last AS l)
