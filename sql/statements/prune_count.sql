-- Who: ops/prune.py, for `dispatcher prune --dry-run`, once. Index: none; reads the whole table, as a person asked.
-- Answer, always one row: settled rows and dead-letter copies older than is kept, as prune_outbox.sql and prune_dlq.sql judge them.
SELECT
    (
        SELECT count(*)
        FROM messaging.message_outbox AS o
        WHERE o.settled
          AND CASE o.status
              WHEN 'sent' THEN coalesce(o.sent_at, o.occurred_at)
              ELSE greatest(o.occurred_at, o.picked_at)
          END < clock_timestamp() - make_interval(secs => %(outbox_s)s)
    ),
    (
        SELECT count(*)
        FROM messaging.message_dlq AS d
        WHERE d.died_at < clock_timestamp() - make_interval(secs => %(dlq_s)s)
    )
