-- writers: reads the highest id of the outbox, and lists the transactions that may have written rows of it and are not over.
-- Parameters: none: with one Postgres would plan it anew each time, which costs more than to run it.
-- Returns: the highest id (0: no row); name of each transaction, which is never given again (NULL: there is none), its id if Postgres
--   gave it one (text; NULL: not yet, or it is ending), and the pid of its session.
-- Loaded by: dispatcher/relay/order/cursor.py
-- Index: message_outbox_pkey, its end; pg_locks.
-- Whoever inserts takes the lock before its row gets an id, and keeps it until its row can be seen. The highest id is of the snapshot,
-- which is older than the look at the locks: whoever wrote a row of a lower id and is not listed is over.
SELECT coalesce((
    SELECT o.id FROM ONLY messaging.message_outbox AS o ORDER BY o.id DESC LIMIT 1
), 0), w.virtualtransaction || coalesce(' ' || w.pid, ''), (
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
FROM (VALUES (1)) AS one (row) LEFT JOIN pg_locks AS w ON w.locktype = 'relation'
    AND w.relation = 'messaging.message_outbox'::regclass
    AND w.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND w.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND w.granted
