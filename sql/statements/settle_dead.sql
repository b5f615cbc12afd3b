-- settle_dead: settles rows of one claim as dead, and copies them to the dead-letter queue in the same statement.
-- Parameters: claim_id, ids, errors (one a row), now (NULL: the server's clock).
-- Returns: id of each row. A row that is missing was lost to another claim.
-- Loaded by: dispatcher/ops/trials.py, dispatcher/stages/settle.py
-- Index: message_outbox_pkey, message_dlq_event_id_idx.
-- BETWEEN: see settle_sent.sql.
-- The copy's id is negative, made of the time, and from no sequence: one that was left behind by a logical upgrade or a restore gives
-- ids that are taken, and each burial would be refused.
WITH buried AS (
    UPDATE ONLY messaging.message_outbox AS o
    SET status = 'dead',
        attempts = o.attempts + 1,
        last_error = s.error,
        stream_id = NULL
    FROM unnest(%(ids)s::bigint[], %(errors)s::text[]) AS s (id, error)
    WHERE o.id BETWEEN s.id AND s.id
      AND o.claim_id = %(claim_id)s
      AND o.status = 'picked'
    RETURNING o.id, o.event_id, o.message_id, o.event_type, o.aggregate_type, o.aggregate_id,
              o.payload, o.headers, o.attempts, o.last_error, o.occurred_at
),
copied AS (
    INSERT INTO messaging.message_dlq AS d
        (id, outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,
         payload, headers, attempts, last_error, occurred_at, died_at, replay_count)
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 2048 - 9223372036854775807 + row_number() OVER (),
        b.*, coalesce(%(now)s::timestamptz, clock_timestamp()), coalesce((
        -- A retry closed the copy of an earlier death: the new one goes on with its count.
        SELECT max(c.replay_count)
        FROM ONLY messaging.message_dlq AS c
        WHERE c.event_id = b.event_id AND c.outbox_id = b.id AND c.replayed_at IS NOT NULL
    ), 0)
    FROM buried AS b
    -- Replayed by a plain UPDATE and dead again: its open copy is renewed, so that there is one copy to list and to replay.
    ON CONFLICT (outbox_id) WHERE replayed_at IS NULL DO UPDATE
    SET payload = excluded.payload,
        headers = excluded.headers,
        attempts = excluded.attempts,
        last_error = excluded.last_error,
        died_at = excluded.died_at,
        replay_count = d.replay_count + 1
)
SELECT id FROM buried
