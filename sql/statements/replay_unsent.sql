-- replay_unsent: what became of named events, of which a replay found no sent row.
-- Parameters: event_ids.
-- Returns: for each its event_id; the status of its row (NULL: no row); whether there is an open dead letter of it.
-- Loaded by: dispatcher/ops/replay.py
-- Index: message_outbox_event_id_key, message_dlq_event_id_idx.
SELECT wanted.event_id, o.status,
       EXISTS (
           SELECT FROM ONLY messaging.message_dlq AS d
           WHERE d.event_id = wanted.event_id AND d.replayed_at IS NULL
       )
FROM unnest(%(event_ids)s::uuid[]) AS wanted (event_id)
LEFT JOIN ONLY messaging.message_outbox AS o ON o.event_id = wanted.event_id
ORDER BY wanted.event_id
