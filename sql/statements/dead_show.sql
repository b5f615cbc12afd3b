-- dead_show: reads one dead event.
-- Parameters: id (of the row) or event_id, the other one NULL; payload (whether to read payload and headers), at_most (bytes).
-- Returns: its JSON object (NULL: larger than at_most). No row: no dead event has that id.
-- Loaded by: dispatcher/ops/dead_letters/find.py
-- Index: message_outbox_pkey or message_outbox_event_id_key; message_dlq_open_key or message_dlq_event_id_idx.
-- An event is dead if its row says so; if it has no row, if it has an open copy.
WITH dead AS (
    SELECT o.id, o.event_id, o.message_id, o.event_type, o.aggregate_type, o.aggregate_id, o.payload, o.headers,
           o.attempts, o.last_error, o.occurred_at, true AS in_outbox
    FROM ONLY messaging.message_outbox AS o
    WHERE (o.id = %(id)s::bigint OR o.event_id = %(event_id)s::uuid)
      AND o.status = 'dead'
    UNION ALL
    SELECT d.outbox_id, d.event_id, d.message_id, d.event_type, d.aggregate_type, d.aggregate_id, d.payload, d.headers,
           d.attempts, d.last_error, d.occurred_at, false
    FROM ONLY messaging.message_dlq AS d
    WHERE (d.outbox_id = %(id)s::bigint OR d.event_id = %(event_id)s::uuid)
      AND d.replayed_at IS NULL
      AND NOT EXISTS (SELECT FROM ONLY messaging.message_outbox AS o WHERE o.id = d.outbox_id)
      AND NOT EXISTS (SELECT FROM ONLY messaging.message_outbox AS again WHERE again.event_id = d.event_id)
),
one AS MATERIALIZED (
    SELECT *, NOT %(payload)s OR pg_column_size(payload) + coalesce(pg_column_size(headers), 0) <= %(at_most)s AS fits
    FROM dead
    ORDER BY in_outbox DESC, id DESC
    LIMIT 1
),
written AS MATERIALIZED (
    SELECT CASE WHEN p.fits THEN
        left(json_build_object(
            'id', p.id,
            'event_id', p.event_id,
            'message_id', p.message_id,
            'event_type', left(p.event_type, 1000),
            'aggregate_type', left(p.aggregate_type, 1000),
            'aggregate_id', left(p.aggregate_id, 1000),
            'status', 'dead',
            'attempts', p.attempts,
            'last_error', p.last_error,
            'occurred_at', to_char(p.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'died_at', to_char(c.died_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'replay_count', coalesce((
                -- Of all its copies: a row that was marked dead by hand has no open one.
                SELECT max(r.replay_count) FROM ONLY messaging.message_dlq AS r WHERE r.event_id = p.event_id AND r.outbox_id = p.id
            ), 0),
            'in_outbox', p.in_outbox
        )::text, -1)
        || CASE
            WHEN %(payload)s THEN ', "payload" : ' || p.payload::text || ', "headers" : ' || coalesce(p.headers::text, 'null')
            ELSE ''
        END
        || '}'
    END AS object
    FROM one AS p
    LEFT JOIN ONLY messaging.message_dlq AS c ON c.outbox_id = p.id AND c.replayed_at IS NULL
)
SELECT CASE WHEN octet_length(w.object) <= %(at_most)s THEN w.object END
FROM written AS w
