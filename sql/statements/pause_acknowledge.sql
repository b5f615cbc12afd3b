-- Who: upkeep/pause.py, when what it obeys changed, and every few seconds. Index: pause_acknowledgement_pkey.
-- Writes what this dispatcher obeys, and forgets those that have said nothing for an hour. Answer: as pause_state.sql.
WITH forgotten AS (
    DELETE FROM messaging.pause_acknowledgement AS a
    WHERE a.seen_at < clock_timestamp() - interval '1 hour'
      AND a.name <> %(name)s
),
said AS (
    INSERT INTO messaging.pause_acknowledgement AS a (name, version, generation, in_flight)
    VALUES (%(name)s, %(version)s, %(generation)s, %(in_flight)s)
    ON CONFLICT (name) DO UPDATE
    SET version = excluded.version, generation = excluded.generation, in_flight = excluded.in_flight, seen_at = clock_timestamp()
)
SELECT p.generation, p.paused, p.changed_at, p.changed_by, p.reason
FROM messaging.pause AS p
