-- published: the events that the open transaction added, in its savepoints too, in the order in which it added them. For tests.
-- Returns: event_id, message_id, event_type, aggregate_type, aggregate_id, payload and headers (JSON text), occurred_at.
-- A row that we see was added by us if its transaction, which may be a savepoint of ours, is still in progress. Numbers of savepoints
-- come after that of their transaction; xmin has the lower half of such a number. Reads the whole outbox.
SELECT o.event_id, o.message_id, o.event_type, o.aggregate_type, o.aggregate_id, o.payload::text, o.headers::text, o.occurred_at
FROM ONLY messaging.message_outbox AS o
CROSS JOIN (SELECT CAST(CAST(pg_current_xact_id_if_assigned() AS text) AS numeric) AS xid) AS ours
WHERE CASE
    WHEN ours.xid IS NULL OR CAST(CAST(o.xmin AS text) AS numeric) < mod(ours.xid, 4294967296) THEN false
    ELSE pg_xact_status(
        CAST(CAST(ours.xid - mod(ours.xid, 4294967296) + CAST(CAST(o.xmin AS text) AS numeric) AS text) AS xid8)
    ) = 'in progress'
END
ORDER BY o.id
