-- Who: stages/claim.py, when some event types have handlers: for the handlers (%(handled)s true: these types only) and for the
-- stream (false: all but these). Index: message_outbox_due_idx, from the cursor on.
-- As claim.sql, but it passes over rows of the other share: a backlog of 100,000 of them takes 30 ms to pass. So a caller that
-- found the way long says %(since_s)s (else NULL): only what fell due in the last so many seconds is looked at.
UPDATE messaging.message_outbox AS o
SET status = 'picked',
    picked_at = coalesce(%(now)s::timestamptz, clock_timestamp()),
    picked_by = %(dispatcher)s,
    claim_id = %(claim_id)s,
    stream_id = %(floor)s
WHERE o.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.status <> 'picked'
      AND d.next_run_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
      AND (d.next_run_at, d.id) > (
          -- A subquery: a function of the clock would be evaluated for each row, and no index could begin there.
          (
              SELECT greatest(
                  %(after_time)s::timestamp AT TIME ZONE 'UTC',
                  coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(since_s)s)
              )
          ),
          %(after_id)s::bigint
      )
      AND d.slot < %(slots)s
      AND (%(floor)s::text IS NULL OR EXISTS (SELECT FROM messaging.unbroken)) -- see claim.sql
      AND (d.event_type = ANY (%(types)s::text[])) = %(handled)s
    ORDER BY d.next_run_at, d.id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
RETURNING
    o.id,
    o.next_run_at AT TIME ZONE 'UTC',
    o.event_id::text,
    o.message_id::text,
    o.event_type,
    o.aggregate_type,
    o.aggregate_id,
    o.occurred_at AT TIME ZONE 'UTC',
    CASE
        WHEN pg_column_size(o.payload) < 1000 AND pg_column_compression(o.payload) IS NULL
        THEN o.payload::text
        ELSE (
            SELECT CASE WHEN octet_length(t.json) > %(most_bytes)s THEN '!' || octet_length(t.json) ELSE t.json END
            FROM (SELECT CASE WHEN %(most_bytes)s::integer IS NULL THEN '!' ELSE o.payload::text END AS json OFFSET 0) AS t
        )
    END,
    CASE
        WHEN o.headers IS NULL THEN NULL
        WHEN pg_column_size(o.headers) < 1000 AND pg_column_compression(o.headers) IS NULL
        THEN o.headers::text
        ELSE (
            SELECT CASE WHEN octet_length(t.json) > %(most_bytes)s THEN '!' || octet_length(t.json) ELSE t.json END
            FROM (SELECT CASE WHEN %(most_bytes)s::integer IS NOT NULL THEN o.headers::text END AS json OFFSET 0) AS t
        )
    END,
    o.attempts,
    coalesce(date_part('epoch', coalesce(%(now)s::timestamptz, clock_timestamp()) - CASE
        WHEN o.attempts > 0 THEN o.occurred_at
        WHEN o.sent_at IS NULL THEN greatest(o.occurred_at, o.next_run_at)
    END), 0)
