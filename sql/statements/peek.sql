-- peek: looks at due rows in order, and locks and changes nothing: where some aggregates are held, the rows to claim are chosen from it.
-- Parameters: those of claim in order, of which it has fresh_time, fresh_id, fresh, after_time, after_id, limit, mask, owned, epochs,
--   running, dispatcher, floor, layout, now and parked; by_id (ids of rows that are tried wherever they lie: somebody had them locked, or nobody has them any more); with
--   handlers types and handled; waiting_types (event types of which no row may be claimed now).
-- Returns: of each row its id, the key of its aggregate (the slot in its last 8 bits), its kind (fresh, scheduled, parked, by_id), and
--   next_run_at (in UTC; NULL: parked); whether its type waits. At most limit rows that are fresh or scheduled: those of held aggregates count too; at most
--   10,000 that are parked, though there may be more.
-- Loaded by: dispatcher/stages/claim_in_order.py
-- Index: message_outbox_due_idx, from each cursor on, and its end; message_outbox_pkey for by_id.
-- A line "--like: claim, from A, before B" stands for the part of claim.sql from A up to B: see load() of dispatcher/infra/sqlfiles.py.
WITH mine AS MATERIALIZED (
--like: claim, from '    --ordered:     SELECT (%(floor)s', before '    --ordered: ),'
),
fresh AS MATERIALIZED (
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.next_run_at, d.event_type
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.status <> 'picked'
      AND d.next_run_at <= '1970-01-01 00:00:00+00'
      AND (d.next_run_at, d.id) > (%(fresh_time)s::timestamp AT TIME ZONE 'UTC', %(fresh_id)s::bigint)
      AND (%(mask)s::bytea IS NULL OR get_bit(%(mask)s::bytea, hashtextextended(d.aggregate_id, 0) & 255) = 1)
      AND (SELECT m.ours FROM mine AS m)
      --unfiltered: AND d.event_type <> 'dispatcher.prove'
      --filtered: AND (d.event_type = ANY (%(types)s::text[])) = %(handled)s
    ORDER BY d.next_run_at, d.id
    LIMIT %(fresh)s
),
scheduled AS MATERIALIZED (
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.next_run_at, d.event_type
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.status <> 'picked'
      AND d.next_run_at > '1970-01-01 00:00:00+00'
      AND d.next_run_at <= (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()))
      AND (d.next_run_at, d.id) > (%(after_time)s::timestamp AT TIME ZONE 'UTC', %(after_id)s::bigint)
      AND (d.status = 'retry' OR d.id < (
          SELECT CASE WHEN count(*) < %(fresh)s THEN 9223372036854775807 ELSE coalesce(max(f.id), %(fresh_id)s::bigint) END FROM fresh AS f
      ))
      AND (%(mask)s::bytea IS NULL OR get_bit(%(mask)s::bytea, hashtextextended(d.aggregate_id, 0) & 255) = 1)
      AND (SELECT m.ours FROM mine AS m)
      --unfiltered: AND d.event_type <> 'dispatcher.prove'
      --filtered: AND (d.event_type = ANY (%(types)s::text[])) = %(handled)s
    ORDER BY d.next_run_at, d.id
    LIMIT %(limit)s - (SELECT count(*) FROM fresh)
),
parked AS (
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.next_run_at, d.event_type
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.next_run_at = 'infinity'
      AND d.id <> ALL (%(parked)s::bigint[])
    ORDER BY d.next_run_at, d.id
    LIMIT 10000
),
by_id AS (
    SELECT d.id, d.aggregate_type, d.aggregate_id, d.next_run_at, d.event_type
    FROM ONLY messaging.message_outbox AS d
    WHERE d.id = ANY (%(by_id)s::bigint[])
      AND d.status IN ('pending', 'retry')
      AND (%(mask)s::bytea IS NULL OR get_bit(%(mask)s::bytea, hashtextextended(d.aggregate_id, 0) & 255) = 1)
      --filtered: AND (d.event_type = ANY (%(types)s::text[])) = %(handled)s
      AND d.next_run_at <= (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()))
      AND (SELECT m.ours FROM mine AS m)
)
SELECT
    m.id,
    (hashtextextended(m.aggregate_type, hashtextextended(m.aggregate_id, 0)) & -256) | (hashtextextended(m.aggregate_id, 0) & 255),
    m.kind,
    CASE WHEN m.next_run_at < 'infinity' THEN m.next_run_at AT TIME ZONE 'UTC' END,
    m.event_type = ANY (%(waiting_types)s::text[])
FROM (
    SELECT 'fresh' AS kind, f.* FROM fresh AS f
    UNION ALL
    SELECT 'scheduled', s.* FROM scheduled AS s
    UNION ALL
    SELECT 'parked', p.* FROM parked AS p
    UNION ALL
    SELECT 'by_id', b.* FROM by_id AS b
) AS m
