-- event_copies: finds events of which only copies are left, by any of their names: their rows were pruned, or discarded.
-- Parameters: id (of the row that was), event_id, message_id, aggregate_id (or type/aggregate_id), each NULL: not by it; limit.
-- Returns: one row: a JSON array of the events, those inserted last first. A copy that was replayed says 'sent': its row went out, and
--   was pruned.
-- Loaded by: dispatcher/ops/outbox_events.py
-- Index: message_dlq_event_id_idx; by another name none, it reads the dead-letter queue.
WITH page AS MATERIALIZED (
    SELECT DISTINCT ON (d.outbox_id) d.*
    FROM ONLY messaging.message_dlq AS d
    WHERE (
            d.outbox_id = %(id)s::bigint
            OR d.event_id = %(event_id)s::uuid
            OR d.message_id = %(message_id)s::uuid
            OR d.aggregate_id = %(aggregate_id)s::text
            OR d.aggregate_type || '/' || d.aggregate_id = %(aggregate_id)s::text
        )
      AND NOT EXISTS (SELECT FROM ONLY messaging.message_outbox AS o WHERE o.id = d.outbox_id)
    ORDER BY d.outbox_id DESC, d.died_at DESC
    LIMIT %(limit)s::bigint
)
SELECT coalesce(json_agg(json_build_object(
    'id', p.outbox_id,
    'event_id', p.event_id,
    'message_id', p.message_id,
    'event_type', left(p.event_type, 1000),
    'aggregate_type', left(p.aggregate_type, 1000),
    'aggregate_id', left(p.aggregate_id, 1000),
    'status', CASE WHEN p.discarded_at IS NOT NULL THEN 'discarded' WHEN p.replayed_at IS NULL THEN 'dead' ELSE 'sent' END,
    'attempts', p.attempts,
    'due_at', NULL,
    'occurred_at', to_char(p.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'picked_at', NULL,
    'picked_by', NULL,
    'sent_at', NULL,
    'stream_id', NULL,
    'last_error', p.last_error,
    'in_outbox', false
) ORDER BY p.outbox_id DESC), '[]')::text
FROM page AS p
