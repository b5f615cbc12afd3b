-- Who: upkeep/survey.py, every 5 s while somebody watches the console. Index: message_dlq_open_key, and the key of message_outbox.
-- Answer, always one row: dead events with an open copy, counted up to %(bound)s. Open copies of rows that were replayed by a plain
-- UPDATE are passed over: they are dead no more.
SELECT count(*)
FROM (
    SELECT
    FROM messaging.message_dlq AS d
    LEFT JOIN messaging.message_outbox AS o ON o.id = d.outbox_id
    WHERE d.replayed_at IS NULL
      AND coalesce(o.status, 'dead') = 'dead'
    LIMIT %(bound)s::bigint
) AS dead
