-- pause_acknowledge: notes which pause this dispatcher obeys, and its condition, and removes the notes of dispatchers that wrote none for an hour.
-- Parameters: name, version, generation (of the pause), in_flight (batches), condition
--   (JSON: what it says of itself).
-- Returns: as pause_state.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/pause.py
-- Index: pause_acknowledgement_pkey.
WITH forgotten AS (
    DELETE FROM ONLY messaging.pause_acknowledgement AS a
    WHERE a.seen_at < clock_timestamp() - interval '1 hour'
      AND a.name <> %(name)s
),
said AS (
    INSERT INTO messaging.pause_acknowledgement AS a (name, version, generation, in_flight, condition)
    VALUES (%(name)s, %(version)s, %(generation)s, %(in_flight)s, %(condition)s::jsonb)
    ON CONFLICT (name) DO UPDATE
    SET version = excluded.version, generation = excluded.generation, in_flight = excluded.in_flight,
        condition = excluded.condition, seen_at = clock_timestamp()
)
SELECT
    coalesce(p.generation, 0),
    coalesce(p.paused, false),
    p.changed_at,
    p.changed_by,
    p.reason,
    coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), ''),
    EXISTS (SELECT FROM ONLY messaging.layout AS l WHERE l.spec ->> 'order' = 'aggregate')
FROM (SELECT) AS always
LEFT JOIN ONLY messaging.pause AS p ON true
