-- claim: takes due rows under a claim of their own: fresh ones, which nobody scheduled, in the order of their ids; then those that
--   were scheduled, are tried again or were replayed, in the order in which they fell due.
-- Parameters: dispatcher (our id in the registry, or NULL), claim_id, floor (the newest entry id that is known; NULL: the rows are
--   for handlers), mark (of rows for handlers: whether their handlers begin at once, see HandlerMark; NULL: the rows go to the
--   stream), after_time, after_id (the cursor; time in UTC), slots (only slots below this number), limit (rows), most_bytes (larger
--   text stays in Postgres for good), layout (the fingerprint of ours; without a floor it does not matter), now (NULL: the server's clock).
-- Parameters where the two kinds of rows are claimed apart (split): fresh (rows, at most, that are fresh; in order only while scheduled rows are due), fresh_time, fresh_id (their cursor; the other cursor is of scheduled rows).
-- Parameters when some event types have handlers: types, handled (true: these types only; false: all others), since_s (NULL, or
--   only rows that fell due in the last so many seconds: to pass over 100,000 rows of the other types takes 30 ms).
-- Parameters in order, in place of slots: mask (32 bytes: the slots to claim; NULL: all), owned (how many these are), epochs (the sum of
--   their epochs, as we know them), running (transactions that must not have ended: rows that they wrote may be before the cursor), parked
--   (ids of rows that are known to be parked).
-- Returns: the columns of ClaimedRow; id NULL: the row does not bear our claim, for a trigger undid it. A row that is missing is not due, is claimed or locked by another, or is in no slot of ours. No
--   row at all: perhaps Postgres crashed and the stream was not searched yet, or another layout stands; rows for handlers are in no stream, and wait
--   only for a layout with an order. In order: also when a slot is not ours any more, or a transaction of running has ended; after the columns of ClaimedRow the
--   key of the aggregate, whose last 8 bits are the slot, and whether more rows are parked than those of parked. SQLSTATE 55P03 in order: a row is locked, see peek.sql.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/stages/claim.py, dispatcher/stages/claim_in_order.py
-- Index: message_outbox_due_idx, from each cursor on.
-- A line that begins with a marker, "--split: " for instance, belongs only to what load() of dispatcher/infra/sqlfiles.py returns when it is
-- asked for lines of that marker; one with two markers, when it is asked for both. The markers:
--   filtered: some event types have handlers. unfiltered: load() without filtered.
--   split: fresh rows and scheduled ones are claimed apart, each with a cursor and a limit: while room is kept for scheduled rows, or their
--     cursor is not at the start, or a filtered claim goes back only a while (ClaimCursor.start of dispatcher/relay/cursor.py). Else one scan.
--   sharded: tells the slot, where the stream, or an order, depends on it.
--   handlers: the rows are for handlers: none is taken where an order stands, which is kept by owners of slots.
--   left_out: leaves out the slots (left_out) of shards of a Cluster that take nothing now: their node is away, for instance.
--   ordered: keeps the order of each aggregate (docs/explanation/order.md). unordered: load() without ordered.
-- To read one form of it, as Postgres gets it: python -c 'from dispatcher.infra.sqlfiles import load; print(load("claim"))' prints the
-- plainest, load("claim", split=True) that of two scans.
-- The row of unbroken names the transaction that inserted it: in the column sealed, or in marked where no layout stands. A row that was
-- copied, by a dump for instance, has the xmin of another transaction. It says nothing of this database, so nothing is claimed.
-- In order, ownership is asked for once, in the snapshot in which the rows are read; no locked row is skipped, for the one behind it
-- may be of its aggregate; and a row that was scheduled goes after fresh rows of lower ids, which may be of its aggregate too. To test
-- one bit of a mask costs the same however many ranges the slots form.
-- Fresh rows have next_run_at 1970-01-01 (core/row.py has it too): they are due whatever the clock says, though it was set back.
-- The clock is read in subqueries: a function of it would be evaluated for each row, and no index scan could begin or end there.
-- Times come in UTC, without a zone: the earliest time that the table allows is no Python time in a zone west of Greenwich.
-- A time that no Python time can be comes as the nearest that can: rows that were written while triggers were off may have one, and each
-- would end every claim that takes it.
-- The column before the suspect's mark is the age in seconds for the latency histogram: since it occurred, if it failed before; else since it occurred
-- or since next_run_at, whichever is later; but 0 if a plain UPDATE put a sent row back.
-- Payload and headers: '!' and the size stand for text of more than most_bytes, '?' and the size (of the text, or as it is stored, which
-- may be compressed) for text that is read later, see read_row.sql: what takes more than its part of 4 MiB, so the answer is bounded
-- whatever the rows hold (headers may take a quarter of that as well). most_bytes NULL: all is read later, for one text cannot be read,
-- and each byte of a name that is not ASCII comes as \ooo: the name may be the one.
-- The text is measured, not what is stored: twelve bytes of jsonb, such as 1e131071, may be 131,072 of text. To measure costs a row
-- 0.8 us, so text of small rows is only cut, at 4,096 characters: one of that length may not be whole, and is read later too.
-- A name of more than 1,000 bytes comes as its first 1,001 characters at most, and may be a megabyte in the table.
-- The array is built once, before the update, so no plan can claim more than the limit; by ctid no index is read twice.
    --ordered: WITH mine AS MATERIALIZED (
    --ordered:     SELECT (%(floor)s::text IS NULL OR EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked) AND u.layout = %(layout)s))
    --ordered:         AND coalesce((
    --ordered:             SELECT sum(s.epoch + 1) FROM ONLY messaging.slot_owner AS s
    --ordered:             WHERE s.owner = %(dispatcher)s AND (%(mask)s::bytea IS NULL OR get_bit(%(mask)s::bytea, s.slot) = 1)
    --ordered:         ), 0) = %(epochs)s::bigint + %(owned)s::integer
    --ordered:         AND NOT EXISTS (SELECT FROM unnest(%(running)s::text[]) AS r (xid) WHERE pg_visible_in_snapshot(r.xid::xid8, pg_current_snapshot()))
    --ordered:         AS ours
    --ordered: ),
    --unordered: --split: WITH fresh AS MATERIALIZED (SELECT ARRAY(
    --unordered: --split:     SELECT d.ctid
    --ordered: fresh AS MATERIALIZED (SELECT coalesce(array_agg(r.ctid), '{}') AS ctids, count(*) AS rows, max(r.id) AS last FROM (
    --ordered:     SELECT d.ctid, d.id
    --split:     FROM ONLY messaging.message_outbox AS d
    --split:     WHERE NOT d.settled
    --split:       AND d.status <> 'picked'
    --split:       AND d.next_run_at <= '1970-01-01 00:00:00+00'
    --split:       AND (d.next_run_at, d.id) > (%(fresh_time)s::timestamp AT TIME ZONE 'UTC', %(fresh_id)s::bigint)
    --unordered: --split:       AND (%(slots)s::integer > 255 OR (hashtextextended(d.aggregate_id, 0) & 255) < %(slots)s)
    --ordered:       AND (%(mask)s::bytea IS NULL OR get_bit(%(mask)s::bytea, hashtextextended(d.aggregate_id, 0) & 255) = 1)
    --ordered:       AND (SELECT m.ours FROM mine AS m)
    --split:   --left_out: AND (hashtextextended(d.aggregate_id, 0) & 255) <> ALL (%(left_out)s::integer[])
    --unordered: --split:       AND (%(floor)s::text IS NULL OR EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked) AND u.layout = %(layout)s))
    --unordered: --split:   --handlers: AND NOT EXISTS (SELECT FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order' = 'aggregate')
    --split:   --unfiltered: AND d.event_type <> 'dispatcher.prove'
    --split:   --filtered: AND (d.event_type = ANY (%(types)s::text[])) = %(handled)s
    --split:     ORDER BY d.next_run_at, d.id
    --unordered: --split:     LIMIT %(fresh)s
    --ordered:     LIMIT (SELECT CASE WHEN EXISTS ( -- nothing that was scheduled is due: no room is kept for it
    --ordered:         SELECT FROM ONLY messaging.message_outbox AS d
    --ordered:         WHERE NOT d.settled
    --ordered:           AND d.status <> 'picked'
    --ordered:           AND d.next_run_at > '1970-01-01 00:00:00+00'
    --ordered:           AND d.next_run_at <= (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()))
    --ordered:           AND (d.next_run_at, d.id) > (%(after_time)s::timestamp AT TIME ZONE 'UTC', %(after_id)s::bigint)
    --ordered:     ) THEN %(fresh)s::integer ELSE %(limit)s::integer END)
    --unordered: --split:     FOR UPDATE SKIP LOCKED
    --unordered: --split: ) AS ctids)
    --ordered:     FOR UPDATE NOWAIT
    --ordered: ) AS r)
UPDATE ONLY messaging.message_outbox AS o
SET status = 'picked',
    picked_at = (SELECT coalesce(%(now)s::timestamptz, clock_timestamp())), -- read once: list_claims.sql groups a claim's rows by this time
    picked_by = %(dispatcher)s,
    claim_id = %(claim_id)s,
    stream_id = CASE
        WHEN %(mark)s::text IS NULL THEN %(floor)s
        WHEN o.last_error LIKE ANY ('{ProcessLost:%%,ServerLost:%%}') THEN NULL -- it will run alone, and be marked when it begins
        ELSE %(mark)s
    END
WHERE o.ctid = ANY (
    --split: (SELECT f.ctids FROM fresh AS f) ||
    ARRAY(
    SELECT d.ctid
    FROM ONLY messaging.message_outbox AS d
    WHERE NOT d.settled
      AND d.status <> 'picked'
      --split: AND d.next_run_at > '1970-01-01 00:00:00+00'
      AND d.next_run_at <= (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()))
      AND (d.next_run_at, d.id) > (
          --filtered: (SELECT greatest(coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(since_s)s),
          %(after_time)s::timestamp AT TIME ZONE 'UTC'
          --filtered: ))
          , %(after_id)s::bigint
      )
      --unordered: AND (%(slots)s::integer > 255 OR (hashtextextended(d.aggregate_id, 0) & 255) < %(slots)s)
      --ordered: AND (%(mask)s::bytea IS NULL OR get_bit(%(mask)s::bytea, hashtextextended(d.aggregate_id, 0) & 255) = 1)
      --ordered: AND (SELECT m.ours FROM mine AS m)
      --ordered: AND (d.status = 'retry' OR d.id < (
      --ordered:     SELECT CASE WHEN f.rows < %(fresh)s THEN 9223372036854775807 ELSE coalesce(f.last, %(fresh_id)s::bigint) END FROM fresh AS f
      --ordered: ))
      --left_out: AND (hashtextextended(d.aggregate_id, 0) & 255) <> ALL (%(left_out)s::integer[])
      --unordered: AND (%(floor)s::text IS NULL OR EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked) AND u.layout = %(layout)s))
      --unordered: --handlers: AND NOT EXISTS (SELECT FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order' = 'aggregate')
      --unfiltered: AND d.event_type <> 'dispatcher.prove' -- those of `dispatcher prove`, which claims them itself
      --filtered: AND (d.event_type = ANY (%(types)s::text[])) = %(handled)s
    ORDER BY d.next_run_at, d.id
    LIMIT %(limit)s
    --split: - (SELECT cardinality(f.ctids) FROM fresh AS f)
    --unordered: FOR UPDATE SKIP LOCKED
    --ordered: FOR UPDATE NOWAIT
))
RETURNING
    CASE WHEN o.status = 'picked' AND o.claim_id = %(claim_id)s THEN o.id END,
    greatest(o.next_run_at, '0001-01-01 00:00:00+00') AT TIME ZONE 'UTC',
    o.event_id::text,
    o.message_id::text,
    CASE WHEN %(most_bytes)s::integer IS NULL THEN encode(convert_to(left(o.event_type, 1001), getdatabaseencoding()::name), 'escape')
         WHEN octet_length(o.event_type) > 1000 THEN left(o.event_type, 1001) ELSE o.event_type END,
    CASE WHEN %(most_bytes)s::integer IS NULL THEN encode(convert_to(left(o.aggregate_type, 1001), getdatabaseencoding()::name), 'escape')
         WHEN octet_length(o.aggregate_type) > 1000 THEN left(o.aggregate_type, 1001) ELSE o.aggregate_type END,
    CASE WHEN %(most_bytes)s::integer IS NULL THEN encode(convert_to(left(o.aggregate_id, 1001), getdatabaseencoding()::name), 'escape')
         WHEN octet_length(o.aggregate_id) > 1000 THEN left(o.aggregate_id, 1001) ELSE o.aggregate_id END,
    least(greatest(o.occurred_at, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00') AT TIME ZONE 'UTC',
    CASE
        WHEN %(most_bytes)s::integer IS NOT NULL AND pg_column_size(o.payload) < 1000 AND pg_column_compression(o.payload) IS NULL THEN o.payload::text::varchar(4096)
        WHEN pg_column_size(o.payload) > 4194304 / %(limit)s::integer OR %(most_bytes)s::integer IS NULL THEN '?' || pg_column_size(o.payload)
        ELSE (
            SELECT CASE
                WHEN octet_length(t.json) > %(most_bytes)s THEN '!' || octet_length(t.json)
                WHEN octet_length(t.json) > 4194304 / %(limit)s::integer THEN '?' || octet_length(t.json)
                ELSE t.json
            END
            FROM (SELECT o.payload::text AS json OFFSET 0) AS t
        )
    END,
    CASE
        WHEN o.headers IS NULL THEN NULL
        WHEN %(most_bytes)s::integer IS NOT NULL AND pg_column_size(o.headers) < 1000 AND pg_column_compression(o.headers) IS NULL THEN o.headers::text::varchar(4096)
        WHEN pg_column_size(o.headers) > 1048576 / %(limit)s::integer OR %(most_bytes)s::integer IS NULL THEN '?' || pg_column_size(o.headers)
        ELSE (
            SELECT CASE
                WHEN octet_length(t.json) > %(most_bytes)s THEN '!' || octet_length(t.json)
                WHEN octet_length(t.json) > 1048576 / %(limit)s::integer THEN '?' || octet_length(t.json)
                ELSE t.json
            END
            FROM (SELECT o.headers::text AS json OFFSET 0) AS t
        )
    END,
    o.attempts,
    coalesce(date_part('epoch', coalesce(%(now)s::timestamptz, clock_timestamp()) - CASE
        WHEN o.attempts > 0 THEN least(greatest(o.occurred_at, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00')
        WHEN o.sent_at IS NULL THEN least(greatest(o.occurred_at, o.next_run_at, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00')
    END), 0),
    coalesce(o.last_error LIKE ANY ('{ProcessLost:%%,ServerLost:%%}'), false)
    --sharded: , (hashtextextended(o.aggregate_id, 0) & 255)::integer
    --ordered: , (hashtextextended(o.aggregate_type, hashtextextended(o.aggregate_id, 0)) & -256) | (hashtextextended(o.aggregate_id, 0) & 255)
    --ordered: , (SELECT EXISTS (
    --ordered:     SELECT FROM ONLY messaging.message_outbox AS d
    --ordered:     WHERE NOT d.settled AND d.next_run_at = 'infinity' AND d.id <> ALL (%(parked)s::bigint[])
    --ordered: ))
