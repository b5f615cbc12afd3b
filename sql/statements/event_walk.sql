-- event_walk: reads a page of events of any status, those inserted last first.
-- Parameters: before_id (ids below it; NULL: from the newest), window (rows to look at), limit, status (as in the column), message_id,
--   event_type, aggregate_type, aggregate_id, each NULL: any; any_id (message_id, aggregate_id or type/aggregate_id is this text; NULL: any); now (NULL:
--   the server's clock).
-- Returns: one row: a JSON array of the events, and the id before which the next page begins (NULL: there is none).
-- Loaded by: dispatcher/ops/outbox_events.py
-- Index: message_outbox_pkey, no further than the window: nothing else is indexed, because an index would cost each insert.
WITH page AS MATERIALIZED (
    SELECT s.*
    FROM (
        SELECT o.*
        FROM ONLY messaging.message_outbox AS o
        WHERE o.id < coalesce(%(before_id)s::bigint, 9223372036854775807)
        ORDER BY o.id DESC
        LIMIT %(window)s::bigint
    ) AS s
    WHERE (%(status)s::text IS NULL OR s.status = %(status)s)
      AND (%(any_id)s::text IS NULL OR s.aggregate_id = %(any_id)s OR s.aggregate_type || '/' || s.aggregate_id = %(any_id)s
           OR s.message_id = %(message_id)s::uuid)
      AND (%(event_type)s::text IS NULL OR s.event_type = %(event_type)s)
      AND (%(aggregate_type)s::text IS NULL OR s.aggregate_type = %(aggregate_type)s)
      AND (%(aggregate_id)s::text IS NULL OR s.aggregate_id = %(aggregate_id)s)
    ORDER BY s.id DESC
    LIMIT %(limit)s::bigint
)
SELECT
    (
        SELECT coalesce(json_agg(json_build_object(
            'id', p.id,
            'event_id', p.event_id,
            'message_id', p.message_id,
            'event_type', left(p.event_type, 1000),
            'aggregate_type', left(p.aggregate_type, 1000),
            'aggregate_id', left(p.aggregate_id, 1000),
            'status', CASE
                WHEN p.status = 'pending' AND p.next_run_at > coalesce(%(now)s::timestamptz, statement_timestamp()) THEN 'scheduled'
                ELSE p.status
            END,
            'attempts', p.attempts,
            'due_at', CASE
                WHEN NOT p.settled AND p.next_run_at > '1970-01-01 00:00:00+00' AND p.next_run_at < 'infinity'
                THEN to_char(p.next_run_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            END,
            'occurred_at', to_char(p.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'picked_at', to_char(p.picked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'picked_by', (SELECT d.name FROM ONLY messaging.dispatcher AS d WHERE d.id = p.picked_by),
            'sent_at', to_char(p.sent_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'stream_id', CASE WHEN p.status = 'sent' THEN p.stream_id END,
            'last_error', p.last_error,
            'in_outbox', true
        ) ORDER BY p.id DESC), '[]')::text
        FROM page AS p
    ),
    CASE
        WHEN (SELECT count(*) FROM page) = %(limit)s THEN (SELECT min(p.id) FROM page AS p)
        ELSE ( -- the window's last row
            SELECT w.id
            FROM ONLY messaging.message_outbox AS w
            WHERE w.id < coalesce(%(before_id)s::bigint, 9223372036854775807)
            ORDER BY w.id DESC
            OFFSET %(window)s::bigint - 1
            LIMIT 1
        )
    END
