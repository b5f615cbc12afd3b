-- dead_list: reads a page of dead events, those inserted last first.
-- Parameters: limit, offset (events), before_id (ids below it), event_type, aggregate_type, aggregate_id, last_error ('': without an error), error_code (as
--   messaging.error_code makes it), error_like (contained, in any case), each NULL: any; payload (whether to read payload and headers), at_most (bytes of the answer).
-- Returns: one row: the number of events on the page, and their JSON objects with commas between (NULL: larger than at_most).
-- Loaded by: dispatcher/ops/dead_letters/find.py
-- Index: message_outbox_dead_idx; for events without a row message_dlq_open_key, message_outbox_pkey, message_outbox_event_id_key.
--   All are read from the highest id down, no further than the page.
-- An event is dead if its row says so; if it has no row, if it has an open copy.
WITH dead AS (
    (
        SELECT o.id, o.event_id, o.message_id, o.event_type, o.aggregate_type, o.aggregate_id, o.payload, o.headers,
               o.attempts, o.last_error, o.occurred_at, true AS in_outbox
        FROM ONLY messaging.message_outbox AS o
        WHERE o.settled
          AND o.sent_at IS NULL
          AND o.status = 'dead'
          AND o.id < coalesce(%(before_id)s::bigint, 9223372036854775807)
          AND (%(event_type)s::text IS NULL OR o.event_type = %(event_type)s)
          AND (%(aggregate_type)s::text IS NULL OR o.aggregate_type = %(aggregate_type)s)
          AND (%(aggregate_id)s::text IS NULL OR o.aggregate_id = %(aggregate_id)s)
          AND (%(last_error)s::text IS NULL OR coalesce(o.last_error, '') = %(last_error)s)
          AND (%(error_code)s::text IS NULL OR messaging.error_code(o.last_error) = %(error_code)s)
          AND (%(error_like)s::text IS NULL OR position(lower(%(error_like)s::text) IN lower(o.last_error)) > 0)
        ORDER BY o.id DESC
        LIMIT %(offset)s::bigint + %(limit)s::bigint
    )
    UNION ALL
    (
        SELECT d.outbox_id, d.event_id, d.message_id, d.event_type, d.aggregate_type, d.aggregate_id, d.payload, d.headers,
               d.attempts, d.last_error, d.occurred_at, o.id IS NOT NULL
        FROM ONLY messaging.message_dlq AS d
        LEFT JOIN ONLY messaging.message_outbox AS o ON o.id = d.outbox_id
        WHERE d.replayed_at IS NULL
          AND d.outbox_id < coalesce(%(before_id)s::bigint, 9223372036854775807)
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
        ORDER BY d.outbox_id DESC
        LIMIT %(offset)s::bigint + %(limit)s::bigint
    )
),
page AS MATERIALIZED (
    SELECT * FROM dead ORDER BY id DESC LIMIT %(limit)s::bigint OFFSET %(offset)s::bigint
),
size AS MATERIALIZED ( -- looked at before anything is unpacked; compressed, so the text is looked at as well
    SELECT coalesce(sum(pg_column_size(p.payload) + coalesce(pg_column_size(p.headers), 0)), 0) AS stored FROM page AS p
),
written AS MATERIALIZED (
    SELECT string_agg(
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
        || '}',
        ',' ORDER BY p.id DESC
    ) AS objects
    FROM page AS p
    LEFT JOIN ONLY messaging.message_dlq AS c ON c.outbox_id = p.id AND c.replayed_at IS NULL
    WHERE NOT %(payload)s OR (SELECT s.stored FROM size AS s) <= %(at_most)s
)
SELECT
    (SELECT count(*) FROM page),
    CASE
        WHEN NOT EXISTS (SELECT FROM page) THEN ''
        WHEN octet_length(w.objects) <= %(at_most)s THEN w.objects
    END
FROM written AS w
