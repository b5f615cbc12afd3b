-- event_show: reads one event, whatever became of it, and its history.
-- Parameters: id (of the row) or event_id, the other one NULL; payload (whether to read payload and headers), at_most (bytes); now (NULL:
--   the server's clock).
-- Returns: its JSON object (NULL: larger than at_most). No row: there is no event of that id.
-- Loaded by: dispatcher/ops/outbox_events.py
-- Index: message_outbox_pkey or message_outbox_event_id_key; message_dlq_event_id_idx, or the dead-letter queue is read where the row of
--   that id is gone; message_history_event_idx.
WITH row AS MATERIALIZED (
    SELECT o.*
    FROM ONLY messaging.message_outbox AS o
    WHERE o.id = %(id)s::bigint OR o.event_id = %(event_id)s::uuid
),
copies AS MATERIALIZED ( -- apart, or the planner looks for the newest one by its time, through the whole queue
    SELECT d.*
    FROM ONLY messaging.message_dlq AS d
    WHERE d.event_id = coalesce((SELECT r.event_id FROM row AS r), %(event_id)s::uuid)
    UNION ALL
    SELECT d.*
    FROM ONLY messaging.message_dlq AS d
    WHERE d.outbox_id = %(id)s::bigint
      AND NOT EXISTS (SELECT FROM row)
),
copy AS MATERIALIZED ( -- the newest one
    SELECT c.* FROM copies AS c ORDER BY c.died_at DESC LIMIT 1
),
one AS MATERIALIZED (
    SELECT r.id, r.event_id, r.message_id, r.event_type, r.aggregate_type, r.aggregate_id, r.payload, r.headers, r.attempts,
           r.last_error, r.settled, r.next_run_at, r.occurred_at, r.picked_at, r.picked_by, r.sent_at, r.stream_id, true AS in_outbox,
           CASE
               WHEN r.status = 'pending' AND r.next_run_at > coalesce(%(now)s::timestamptz, statement_timestamp()) THEN 'scheduled'
               ELSE r.status
           END AS status
    FROM row AS r
    UNION ALL
    SELECT c.outbox_id, c.event_id, c.message_id, c.event_type, c.aggregate_type, c.aggregate_id, c.payload, c.headers, c.attempts,
           c.last_error, true, NULL, c.occurred_at, NULL, NULL, NULL, NULL, false,
           CASE WHEN c.discarded_at IS NOT NULL THEN 'discarded' WHEN c.replayed_at IS NULL THEN 'dead' ELSE 'sent' END
    FROM copy AS c
    WHERE NOT EXISTS (SELECT FROM row)
),
history AS MATERIALIZED (
    SELECT h.* FROM ONLY messaging.message_history AS h WHERE h.outbox_id = (SELECT n.id FROM one AS n) ORDER BY h.at DESC LIMIT 20
),
written AS MATERIALIZED (
    SELECT CASE
        WHEN NOT %(payload)s OR pg_column_size(p.payload) + coalesce(pg_column_size(p.headers), 0) <= %(at_most)s
        THEN left(json_build_object(
            'id', p.id,
            'event_id', p.event_id,
            'message_id', p.message_id,
            'event_type', left(p.event_type, 1000),
            'aggregate_type', left(p.aggregate_type, 1000),
            'aggregate_id', left(p.aggregate_id, 1000),
            'status', p.status,
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
            'in_outbox', p.in_outbox,
            'died_at', to_char(c.died_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'replay_count', coalesce(c.replay_count, 0),
            'discarded', (
                SELECT json_build_object(
                    'at', to_char(h.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'by', h.actor, 'reason', h.error
                )
                FROM history AS h
                WHERE p.status = 'discarded' AND h.what IN ('discarded', 'skipped')
                ORDER BY h.at DESC
                LIMIT 1
            ),
            'history', (
                SELECT coalesce(json_agg(json_build_object(
                    'at', to_char(h.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                    'what', h.what,
                    'attempt', h.attempt,
                    'by', h.actor,
                    'error', h.error,
                    'where', h.place
                ) ORDER BY h.at DESC), '[]')
                FROM history AS h
            )
        )::text, -1)
        || CASE
            WHEN %(payload)s THEN ', "payload" : ' || p.payload::text || ', "headers" : ' || coalesce(p.headers::text, 'null')
            ELSE ''
        END
        || '}'
    END AS object
    FROM one AS p
    LEFT JOIN copy AS c ON c.outbox_id = p.id
)
SELECT CASE WHEN octet_length(w.object) <= %(at_most)s THEN w.object END
FROM written AS w
