-- prune_outbox: deletes settled rows of one window of ids, with the same care for dead-letter copies as
--   messaging.prune_message_outbox.
-- Parameters: after_id (the last id of the window before), window (rows), older_than_s (seconds since they were settled), ours
--   (our clock), now (NULL: the server's clock).
-- Returns: one row: whether we had the lock, rows deleted, rows read, the last id read (NULL: none), rows read that occurred within
--   the time they are kept, dead rows left although they are old enough.
-- Loaded by: dispatcher/ops/prune.py, dispatcher/ops/trial_list.py, dispatcher/upkeep/retention.py
-- Index: message_outbox_pkey, one window; not the BRIN index on times, whose ranges never narrow again once pruned pages are filled
--   anew.
-- By the earlier of two clocks: one that is set forward by mistake must not delete what is still to be kept.
-- With DISPATCH_ORDER_ON_DEAD=hold a dead row stays until a person decided: it holds the later events of its aggregate.
-- Does nothing while another prune has the lock. A row that is locked is left for the next time; a locked copy ends the statement
-- after half a second.
WITH turn AS MATERIALIZED (
    SELECT
        pg_try_advisory_xact_lock(1869968482, 3) AND set_config('lock_timeout', '500ms', true) IS NOT NULL AS ours,
        coalesce(%(now)s::timestamptz, clock_timestamp()) AS now,
        least(coalesce(%(now)s::timestamptz, clock_timestamp()), %(ours)s) - make_interval(secs => %(older_than_s)s) AS cutoff,
        EXISTS (SELECT FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order_on_dead' = 'hold') AS hold
),
seen AS MATERIALIZED (
    SELECT d.ctid, d.id, d.status, d.occurred_at, d.picked_at, d.sent_at
    FROM ONLY messaging.message_outbox AS d
    WHERE (SELECT t.ours FROM turn AS t)
      AND d.id > %(after_id)s
    ORDER BY d.id
    LIMIT %(window)s
),
gone AS (
    DELETE FROM ONLY messaging.message_outbox AS o
    WHERE o.ctid = ANY (ARRAY(
        SELECT d.ctid
        FROM ONLY messaging.message_outbox AS d
        WHERE d.ctid = ANY (ARRAY(
            SELECT s.ctid
            FROM seen AS s
            WHERE CASE s.status
                WHEN 'sent' THEN coalesce(s.sent_at, s.occurred_at)
                WHEN 'dead' THEN greatest(s.occurred_at, s.picked_at)
            END < (SELECT t.cutoff FROM turn AS t)
              AND NOT (s.status = 'dead' AND (SELECT t.hold FROM turn AS t))
        ))
          -- Again, on the row as it is once it is locked: somebody may have replayed it since.
          AND d.settled
          AND NOT (d.status = 'dead' AND (SELECT t.hold FROM turn AS t))
          AND CASE d.status
              WHEN 'sent' THEN coalesce(d.sent_at, d.occurred_at)
              ELSE greatest(d.occurred_at, d.picked_at)
          END < (SELECT t.cutoff FROM turn AS t)
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING o.*
),
kept AS (
    -- A row marked dead by hand has no copy yet; it gets one, so that it can still be listed and replayed.
    INSERT INTO messaging.message_dlq
        (id, outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,
         payload, headers, attempts, last_error, occurred_at)
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 2048 - 9223372036854775807 + row_number() OVER (), -- see settle_dead.sql
           g.id, g.event_id, g.message_id, g.event_type, g.aggregate_type, g.aggregate_id,
           g.payload, g.headers, g.attempts, g.last_error, g.occurred_at
    FROM gone AS g
    WHERE g.status = 'dead'
    ON CONFLICT (outbox_id) WHERE replayed_at IS NULL DO NOTHING
),
closed AS (
    -- A row that was replayed by a plain UPDATE, then sent, leaves an open copy; without its row it would look dead again.
    UPDATE ONLY messaging.message_dlq AS d
    SET replayed_at = clock_timestamp(), replay_count = d.replay_count + 1
    WHERE d.outbox_id = ANY (ARRAY(SELECT g.id FROM gone AS g WHERE g.status = 'sent'))
      AND d.replayed_at IS NULL
)
SELECT
    t.ours,
    (SELECT count(*) FROM gone),
    (SELECT count(*) FROM seen),
    (SELECT max(s.id) FROM seen AS s),
    (SELECT count(*) FROM seen AS s WHERE s.occurred_at BETWEEN t.cutoff AND t.now),
    (SELECT count(*) FROM seen AS s WHERE t.hold AND s.status = 'dead' AND greatest(s.occurred_at, s.picked_at) < t.cutoff)
FROM turn AS t
