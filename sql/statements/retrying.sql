-- retrying: says which events failed and are tried again, and how overdue events are that nothing of the kind explains.
-- Parameters: ordered (whether the later events of an aggregate wait for one that failed), holds (and for one that is dead), now (NULL: the server's clock).
-- Returns: one row: events that are tried again, counted up to 1,000; of the one with the most failed attempts: its failed attempts, type,
--   error, when it is due (Unix seconds), its id, and when it failed first (Unix seconds); seconds that the oldest event is overdue by when it is due.
-- Loaded by: dispatcher/ops/retrying.py
-- Index: message_outbox_due_idx: the first hundred that are fresh (5,000 with an order: most of them may be held), the first thousand of the others,
--   and of those that are parked; message_history_event_idx. With `holds` message_outbox_dead_idx.
-- Beside sample.sql, which counts a row that was tried from when it occurred: whoever is on call would look for events that wait, and
-- find one that is due in half an hour. Odd times: see sample.sql. With an order a row waits for an earlier one of its aggregate that failed, is
-- parked, or is dead and holds; the earlier one itself is overdue when it is due and not tried.
WITH tried AS MATERIALIZED (
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.event_type, d.attempts, d.status, d.next_run_at, d.last_error, d.picked_at, d.occurred_at
    FROM (
        SELECT o.id, o.aggregate_type, o.aggregate_id, o.event_type, o.attempts, o.status, o.next_run_at, o.last_error, o.picked_at, o.occurred_at
        FROM ONLY messaging.message_outbox AS o
        WHERE NOT o.settled
          AND o.next_run_at > '1970-01-01 00:00:00+00'
          AND o.next_run_at < 'infinity'
        ORDER BY o.next_run_at, o.id
        LIMIT 1000
    ) AS d
    WHERE (d.attempts > 0 OR d.status = 'retry')
      AND d.event_type <> 'dispatcher.prove'
),
waiting AS (
    (
        SELECT o.id, o.aggregate_type, o.aggregate_id, o.occurred_at AS since
        FROM ONLY messaging.message_outbox AS o
        WHERE NOT o.settled
          AND o.next_run_at <= '1970-01-01 00:00:00+00'
          AND o.event_type <> 'dispatcher.prove'
        ORDER BY o.next_run_at, o.id
        LIMIT CASE WHEN %(ordered)s::boolean THEN 5000 ELSE 100 END
    )
    UNION ALL
    (
        SELECT o.id, o.aggregate_type, o.aggregate_id, o.next_run_at
        FROM ONLY messaging.message_outbox AS o
        WHERE NOT o.settled
          AND o.next_run_at > '1970-01-01 00:00:00+00'
          AND o.next_run_at < 'infinity'
        ORDER BY o.next_run_at, o.id
        LIMIT 100
    )
),
holding AS (
    SELECT t.id, t.aggregate_type, t.aggregate_id FROM tried AS t
    UNION ALL
    (
        SELECT o.id, o.aggregate_type, o.aggregate_id
        FROM ONLY messaging.message_outbox AS o
        WHERE NOT o.settled
          AND o.next_run_at = 'infinity'
          AND o.event_type <> 'dispatcher.prove'
        ORDER BY o.next_run_at, o.id
        LIMIT 1000
    )
    UNION ALL
    SELECT d.id, d.aggregate_type, d.aggregate_id
    FROM ONLY messaging.message_outbox AS d
    WHERE %(holds)s::boolean AND d.settled AND d.sent_at IS NULL AND d.status = 'dead'
),
line AS ( -- a window, not a join, which would be planned for a table that was empty (decision 0012)
    SELECT l.since, l.id > min(l.id) FILTER (WHERE l.since IS NULL) OVER (PARTITION BY l.aggregate_type, l.aggregate_id) AS held
    FROM (
        SELECT w.id, w.aggregate_type, w.aggregate_id, w.since FROM waiting AS w
        UNION ALL
        SELECT h.id, h.aggregate_type, h.aggregate_id, NULL FROM holding AS h WHERE %(ordered)s::boolean
    ) AS l
),
worst AS (
    SELECT t.id, t.attempts, t.event_type, t.last_error, t.next_run_at, coalesce(t.picked_at, t.occurred_at) AS tried_at
    FROM tried AS t
    ORDER BY t.attempts DESC, t.next_run_at
    LIMIT 1
)
SELECT
    (SELECT count(*) FROM tried),
    (SELECT w.attempts FROM worst AS w),
    (SELECT left(w.event_type, 200) FROM worst AS w),
    (SELECT left(w.last_error, 200) FROM worst AS w),
    (SELECT date_part('epoch', least(w.next_run_at, '9999-12-31 00:00:00+00')) FROM worst AS w),
    (SELECT w.id FROM worst AS w),
    (
        SELECT date_part('epoch', coalesce((
            SELECT min(h.at) FROM ONLY messaging.message_history AS h WHERE h.outbox_id = w.id AND h.what = 'failed'
        ), least(greatest(w.tried_at, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00')))
        FROM worst AS w
    ),
    (
        SELECT greatest(coalesce(max(date_part('epoch', coalesce(%(now)s::timestamptz, clock_timestamp()) - least(greatest(l.since, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00'))), 0), 0)
        FROM line AS l
        WHERE l.held IS NOT TRUE
          AND l.since IS NOT NULL
    )
