-- prune_count: counts what a prune would delete.
-- Parameters: outbox_s, dlq_s (seconds that settled rows and dead-letter copies are kept), ours (our clock).
-- Returns: one row: settled rows and copies, judged as prune_outbox and prune_dlq judge them; dead rows that are left, see
--   prune_outbox.
-- Loaded by: dispatcher/ops/prune.py
-- Index: none; reads the whole table, at a person's request.
SELECT
    (
        SELECT count(*)
        FROM ONLY messaging.message_outbox AS o
        WHERE o.settled
          AND NOT (o.status = 'dead' AND EXISTS (SELECT FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order_on_dead' = 'hold'))
          AND CASE o.status
              WHEN 'sent' THEN coalesce(o.sent_at, o.occurred_at)
              ELSE greatest(o.occurred_at, o.picked_at)
          END < least(clock_timestamp(), %(ours)s) - make_interval(secs => %(outbox_s)s)
    ),
    (
        SELECT count(*)
        FROM ONLY messaging.message_dlq AS d
        WHERE d.died_at < least(clock_timestamp(), %(ours)s) - make_interval(secs => %(dlq_s)s)
    ),
    (
        SELECT count(*)
        FROM ONLY messaging.message_outbox AS o
        WHERE EXISTS (SELECT FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order_on_dead' = 'hold')
          AND o.settled
          AND o.status = 'dead'
          AND greatest(o.occurred_at, o.picked_at) < least(clock_timestamp(), %(ours)s) - make_interval(secs => %(outbox_s)s)
    )
