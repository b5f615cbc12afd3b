-- writers: lists the transactions that may have written rows of the outbox and are not over.
-- Parameters: none: with one Postgres would plan it anew each time, which costs more than to run it.
-- Returns: name of each, which is never given again, its id if Postgres gave it one (text; NULL: not yet, or it is ending), and the pid
--   of its session.
-- Loaded by: dispatcher/relay/order/cursor.py
-- Index: none; pg_locks.
-- Whoever inserts takes the lock before its row gets an id, and keeps it until its row can be seen.
SELECT w.virtualtransaction || coalesce(' ' || w.pid, ''), (
    SELECT x.xid::text
    FROM pg_snapshot_xip(pg_current_snapshot()) AS x (xid)
    WHERE mod(x.xid::text::numeric, 4294967296)::text = (
        SELECT t.transactionid::text
        FROM pg_locks AS t
        WHERE t.locktype = 'transactionid' AND t.mode = 'ExclusiveLock' AND t.virtualtransaction = w.virtualtransaction
        ORDER BY age(t.transactionid) DESC
        LIMIT 1
    )
    LIMIT 1
), w.pid
FROM pg_locks AS w
WHERE w.locktype = 'relation'
  AND w.relation = 'messaging.message_outbox'::regclass
  AND w.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND w.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND w.granted
