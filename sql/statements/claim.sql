-- Who: stages/claim.py, for each batch. Index: message_outbox_due_idx, from the cursor on.
-- A row missing from the answer: not due, held by another dispatcher, not in our share of the slots; or Postgres crashed, and what
-- it forgot was not looked for in the stream yet (upkeep/postgres_crash.py): then all of them. Rows for handlers, which have no floor,
-- do not wait for that: they are in no stream.
-- Times come and go in UTC: the earliest allowed is no Python time in a zone west of Greenwich, and would fail its batch for ever.
-- The last column is the age of the latency histogram: since the event could first go out, which a replay and a schedule put off
-- (next_run_at); since it occurred when it failed before; nothing when a plain UPDATE put a sent row back: nobody noted when.
-- A payload, or headers, of more than %(most_bytes)s bytes stay here: '!' and their size stand for them, or a batch of them would
-- exhaust the dispatcher's memory. %(most_bytes)s NULL: no large one is written as text; see read_row.sql. Small ones are
-- not measured: that, or a cut, costs each row 0.1 to 1 us, and 1,000 bytes of the worst numbers (1e131071) are 11 MB of text.
-- The array is built once, before the update, so no plan can claim more than the limit; by ctid no index is asked twice.
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
      AND (d.next_run_at, d.id) > (%(after_time)s::timestamp AT TIME ZONE 'UTC', %(after_id)s)
      AND d.slot < %(slots)s
      AND (%(floor)s::text IS NULL OR EXISTS (SELECT FROM messaging.unbroken))
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
