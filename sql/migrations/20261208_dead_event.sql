-- The dead events as one relation, for SELECT: an event's row may be pruned while its copy is kept.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.
--
-- An event is dead if its row says so; if it has no row, if it has an open copy and was not inserted anew by its producer.
-- The dispatcher reads the tables themselves (sql/statements/dead_list.sql), because it wants a page of the newest.
CREATE OR REPLACE VIEW messaging.dead_event AS
SELECT o.id, o.event_id, o.message_id, o.event_type, o.aggregate_type, o.aggregate_id, o.payload, o.headers, o.attempts, o.last_error,
       o.occurred_at,
       coalesce(
           (SELECT c.died_at FROM ONLY messaging.message_dlq AS c WHERE c.outbox_id = o.id AND c.replayed_at IS NULL),
           o.picked_at, o.occurred_at -- marked by hand: there is no copy
       ) AS died_at
FROM ONLY messaging.message_outbox AS o
WHERE o.settled AND o.sent_at IS NULL AND o.status = 'dead' -- as message_outbox_dead_idx has them
UNION ALL
SELECT d.outbox_id, d.event_id, d.message_id, d.event_type, d.aggregate_type, d.aggregate_id, d.payload, d.headers, d.attempts,
       d.last_error, d.occurred_at, d.died_at
FROM ONLY messaging.message_dlq AS d
LEFT JOIN ONLY messaging.message_outbox AS o ON o.id = d.outbox_id
WHERE d.replayed_at IS NULL
  AND CASE
      WHEN o.id IS NULL THEN NOT EXISTS (SELECT FROM ONLY messaging.message_outbox AS again WHERE again.event_id = d.event_id)
      ELSE o.status = 'dead' AND o.sent_at IS NOT NULL -- not in the first half
  END;
COMMENT ON VIEW messaging.dead_event IS 'The dead events, from their rows or, once those are pruned, from their copies.';
COMMENT ON COLUMN messaging.dead_event.id IS 'message_outbox.id of the event.';
COMMENT ON COLUMN messaging.dead_event.died_at IS 'When the event failed for the last time.';
