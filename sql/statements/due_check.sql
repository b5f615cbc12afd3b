-- due_check: asks when the next row is due.
-- Parameters: slots (only slots below this number), proof_events (whether only events of `dispatcher prove`, or all others), usage
--   (whether to ask for the notification queue).
-- Parameters with an order: lows, highs (ranges of slots that we own; slots does not matter then).
-- Returns: one row: seconds until the first claimable row is due (0 or less: now; NULL: there is none); share of the notification
--   queue in use (NULL: not asked for).
-- Loaded by: dispatcher/stages/doorbell/due.py
-- Index: message_outbox_due_idx, its head.
-- Lines marked --owned belong to load("due_check", owned=True), with an order, those marked --any to the other one. If none of the first 1,000
-- rows is in a slot of ours, ours is due no earlier than the last of these: a claim finds out.
SELECT
    (
        --any: SELECT date_part('epoch', greatest(d.next_run_at, '0001-01-01 00:00:00+00') - clock_timestamp())
        --owned: SELECT date_part('epoch', greatest(w.next_run_at, '0001-01-01 00:00:00+00') - clock_timestamp())
        --owned: FROM (
        --owned: SELECT d.next_run_at, hashtextextended(d.aggregate_id, 0) & 255 AS slot, row_number() OVER (ORDER BY d.next_run_at, d.id) AS number
        FROM ONLY messaging.message_outbox AS d
        WHERE NOT d.settled
          AND d.status <> 'picked'
          --any: AND (%(slots)s::integer > 255 OR (hashtextextended(d.aggregate_id, 0) & 255) < %(slots)s)
          AND (d.event_type = 'dispatcher.prove') = %(proof_events)s
          AND d.next_run_at < 'infinity' -- parked; Postgres 16 cannot subtract it
        ORDER BY d.next_run_at, d.id
        --owned: LIMIT 1000
        --owned: ) AS w
        --owned: WHERE w.number = 1000 OR EXISTS (
        --owned:     SELECT FROM unnest(%(lows)s::integer[], %(highs)s::integer[]) AS r (low, high) WHERE w.slot BETWEEN r.low AND r.high
        --owned: )
        --owned: ORDER BY w.number
        LIMIT 1
    ),
    CASE WHEN %(usage)s THEN pg_notification_queue_usage() END
