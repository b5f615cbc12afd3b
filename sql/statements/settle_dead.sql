-- settle_dead: settles rows of one claim as dead, copies them to the dead-letter queue and notes it in their history, in the same
--   statement.
-- Parameters: claim_id, ids, errors (one a row), places (file and line of the handler that raised, one a row, or NULL), now (NULL: the
--   server's clock).
-- Returns: id of each row. A row that is missing is another claim's, was settled by an earlier try, or bears our claim still: a trigger undid it.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/stages/settle.py
-- Index: message_outbox_pkey, message_dlq_event_id_idx, message_history_event_idx.
-- BETWEEN: see settle_sent.sql.
-- The copy's id is negative, made of the time, and from no sequence: one that was left behind by a logical upgrade or a restore gives
-- ids that are taken, and each burial would be refused.
WITH buried AS (
    UPDATE ONLY messaging.message_outbox AS o
    SET status = 'dead',
        attempts = o.attempts + 1,
        last_error = s.error,
        sent_at = NULL, -- of a row that was replayed by a plain UPDATE
        stream_id = NULL
    FROM unnest(%(ids)s::bigint[], %(errors)s::text[], %(places)s::text[]) AS s (id, error, place)
    WHERE o.id BETWEEN s.id AND s.id
      AND o.claim_id = %(claim_id)s
      AND o.status = 'picked'
    RETURNING o.id, o.event_id, o.message_id, o.event_type, o.aggregate_type, o.aggregate_id,
              o.payload, o.headers, o.attempts, o.last_error, o.occurred_at, o.picked_by, s.place
),
copied AS (
    INSERT INTO messaging.message_dlq AS d
        (id, outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,
         payload, headers, attempts, last_error, occurred_at, died_at, replay_count)
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 2048 - 9223372036854775807 + row_number() OVER (),
        b.id, b.event_id, b.message_id, b.event_type, b.aggregate_type, b.aggregate_id,
        b.payload, b.headers, b.attempts, b.last_error, b.occurred_at, coalesce(%(now)s::timestamptz, clock_timestamp()), coalesce((
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
),
noted AS (
    INSERT INTO messaging.message_history (outbox_id, at, what, attempt, actor, error, place)
    SELECT b.id, coalesce(%(now)s::timestamptz, clock_timestamp()), 'died', b.attempts,
           (SELECT d.name FROM ONLY messaging.dispatcher AS d WHERE d.id = b.picked_by), b.last_error, b.place
    FROM buried AS b
),
forgotten AS (
    DELETE FROM ONLY messaging.message_history AS h
    WHERE h.ctid = ANY (ARRAY(
        SELECT old.ctid
        FROM buried AS b
        CROSS JOIN LATERAL (
            SELECT n.ctid FROM ONLY messaging.message_history AS n WHERE n.outbox_id = b.id ORDER BY n.at DESC OFFSET 19
        ) AS old
    ))
)
SELECT id FROM buried
