-- Who: ops/pause.py, several times a second while a command waits; overview.py for `dispatcher status`. Index: none, a few rows,
-- and the lock table.
-- Answer: the dispatchers alive, whether each is in the registry, the generation it obeys and the batches it has in hand (NULL: it never
-- said), seconds since it last said so. Alive: its registry lock is held; or it is in no registry and was heard of lately.
SELECT
    coalesce(r.name, a.name),
    coalesce(a.version, r.version),
    r.name IS NOT NULL,
    a.generation,
    a.in_flight,
    date_part('epoch', clock_timestamp() - a.seen_at)
FROM (
    SELECT
        d.name,
        d.version,
        EXISTS (
            SELECT
            FROM pg_locks AS l
            WHERE l.locktype = 'advisory'
              AND l.database = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
              AND l.classid = 1869968483
              AND l.objid = d.id::oid
              AND l.objsubid = 2 -- a key of two integers
              AND l.granted
        ) AS alive
    FROM messaging.dispatcher AS d
) AS r
FULL JOIN messaging.pause_acknowledgement AS a ON a.name = r.name
WHERE coalesce(r.alive, a.seen_at > clock_timestamp() - interval '15 seconds')
ORDER BY 1
