-- event_due: reads a page of events that are not settled, those due first.
-- Parameters: after_us, after_id (the key of the event before: when it is due, in microseconds since 1970, and its id; NULL: from the
--   start), window (rows to look at), limit, status
--   (pending, scheduled, picked or retry), event_type, aggregate_type, aggregate_id, last_error ('': without one), error_code (as
--   messaging.error_code makes it), error_like (contained, in any case), each NULL: any; now (NULL: the server's clock).
-- Returns: one row: a JSON array of the events, and the key of the next page (NULL: there is none).
-- Loaded by: dispatcher/ops/outbox_events.py
-- Index: message_outbox_due_idx, no further than the window.
WITH key AS MATERIALIZED (
    SELECT CASE
        WHEN %(after_us)s::bigint IS NULL THEN '-infinity'
        WHEN %(after_us)s::bigint = 999999999999999999 THEN 'infinity'
        ELSE timestamptz 'epoch' + %(after_us)s::bigint * interval '1 microsecond'
    END AS time
),
page AS MATERIALIZED (
    SELECT s.*
    FROM (
        SELECT o.*
        FROM ONLY messaging.message_outbox AS o
        WHERE NOT o.settled
          AND (o.next_run_at, o.id) > ((SELECT k.time FROM key AS k), coalesce(%(after_id)s::bigint, 0))
        ORDER BY o.next_run_at, o.id
        LIMIT %(window)s::bigint
    ) AS s
    WHERE (%(status)s::text IS NULL OR (
              s.status = CASE %(status)s::text WHEN 'scheduled' THEN 'pending' ELSE %(status)s::text END
              AND (
                  s.status <> 'pending'
                  OR (%(status)s::text = 'scheduled') = (s.next_run_at > coalesce(%(now)s::timestamptz, statement_timestamp()))
              )
          ))
      AND (%(event_type)s::text IS NULL OR s.event_type = %(event_type)s)
      AND (%(aggregate_type)s::text IS NULL OR s.aggregate_type = %(aggregate_type)s)
      AND (%(aggregate_id)s::text IS NULL OR s.aggregate_id = %(aggregate_id)s)
      AND (%(last_error)s::text IS NULL OR coalesce(s.last_error, '') = %(last_error)s)
      AND (%(error_code)s::text IS NULL OR messaging.error_code(s.last_error) = %(error_code)s)
      AND (%(error_like)s::text IS NULL OR position(lower(%(error_like)s::text) IN lower(s.last_error)) > 0)
    ORDER BY s.next_run_at, s.id
    LIMIT %(limit)s::bigint
),
last AS (
    SELECT p.next_run_at, p.id FROM page AS p WHERE (SELECT count(*) FROM page) = %(limit)s
    UNION ALL
    ( -- the window's last row
        SELECT w.next_run_at, w.id
        FROM ONLY messaging.message_outbox AS w
        WHERE NOT w.settled
          AND (w.next_run_at, w.id) > ((SELECT k.time FROM key AS k), coalesce(%(after_id)s::bigint, 0))
          AND (SELECT count(*) FROM page) < %(limit)s
        ORDER BY w.next_run_at, w.id
        OFFSET %(window)s::bigint - 1
        LIMIT 1
    )
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
        ) ORDER BY p.next_run_at, p.id), '[]')::text
        FROM page AS p
    ),
    (
        SELECT l.id || '_' || CASE
            WHEN isfinite(l.next_run_at) THEN (extract(epoch FROM l.next_run_at) * 1000000)::bigint
            ELSE 999999999999999999
        END
        FROM last AS l
        ORDER BY l.next_run_at DESC, l.id DESC
        LIMIT 1
    )
