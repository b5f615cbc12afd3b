-- doctor_stranded: counts rows that wait only because the server's clock went back: they are not due, and something else says that their
--   time is no wish of their producer: other times of theirs, or of their history, are of the future too, or they were claimed before and
--   put back since.
-- Parameters: none.
-- Returns: one row: their number, and the longest wait in seconds (0: none). Of the 10,000 rows that are due next.
-- Loaded by: dispatcher/ops/doctor/activity.py
-- Index: message_outbox_due_idx, from now on; message_history_at_idx.
-- A row that waits for the time of its producer was never claimed, or was released: it has no picked_at. replay.sql keeps it.
SELECT count(*), coalesce(max(date_part('epoch', d.next_run_at - clock_timestamp())), 0)
FROM (
    SELECT o.id, o.status, o.next_run_at, o.occurred_at, o.picked_at
    FROM ONLY messaging.message_outbox AS o
    WHERE NOT o.settled
      AND o.status <> 'picked'
      AND o.next_run_at > (SELECT clock_timestamp())
      AND o.next_run_at < 'infinity' -- parked; Postgres 16 cannot subtract it
    ORDER BY o.next_run_at, o.id
    LIMIT 10000
) AS d
WHERE greatest(d.occurred_at, d.picked_at) > clock_timestamp() + interval '1 second'
   OR (d.status = 'pending' AND d.picked_at IS NOT NULL)
   OR d.id IN (
       SELECT h.outbox_id
       FROM ONLY messaging.message_history AS h
       WHERE h.at > (SELECT clock_timestamp()) + interval '1 second'
   )
