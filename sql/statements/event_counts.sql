-- event_counts: counts what is not settled, by status.
-- Parameters: bound (count no further), now (NULL: the server's clock).
-- Returns: one row: pending, scheduled, picked and retry, and whether all were counted.
-- Loaded by: dispatcher/ops/outbox_events.py
-- Index: message_outbox_due_idx, no further than the bound.
SELECT
    count(*) FILTER (WHERE u.status = 'pending' AND u.due),
    count(*) FILTER (WHERE u.status = 'pending' AND NOT u.due),
    count(*) FILTER (WHERE u.status = 'picked'),
    count(*) FILTER (WHERE u.status = 'retry'),
    count(*) < %(bound)s::bigint
FROM (
    SELECT o.status, o.next_run_at <= coalesce(%(now)s::timestamptz, statement_timestamp()) AS due
    FROM ONLY messaging.message_outbox AS o
    WHERE NOT o.settled
    ORDER BY o.next_run_at, o.id
    LIMIT %(bound)s::bigint
) AS u
