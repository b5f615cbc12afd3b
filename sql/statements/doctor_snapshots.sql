-- doctor_snapshots: finds what keeps dead row versions of this database from being removed.
-- Parameters: none.
-- Returns: one row, the one that holds back most: kind, name, user, application, state, since when in Unix seconds (NULL: this role
--   may not see it), for how many transactions. No row: nothing does.
-- A transaction that has written and has no snapshot now, idle at READ COMMITTED, holds back as much, by its id.
-- Loaded by: dispatcher/ops/snapshots.py
-- Index: none; the statistics views.
SELECT h.kind, h.name, h.usename, h.application_name, h.state, h.since, h.transactions
FROM (
    SELECT
        'session' AS kind,
        a.pid::text AS name,
        a.usename::text,
        a.application_name,
        a.state,
        date_part('epoch', a.xact_start) AS since,
        greatest(age(a.backend_xmin), age(a.backend_xid)) AS transactions
    FROM pg_stat_activity AS a
    WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
      AND a.pid <> pg_backend_pid()
      AND (a.datname = current_database() OR a.backend_type = 'walsender')
      AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
    UNION ALL
    SELECT
        'prepared transaction',
        p.gid,
        p.owner::text,
        NULL,
        NULL,
        date_part('epoch', p.prepared),
        age(p.transaction)
    FROM pg_prepared_xacts AS p
    WHERE p.database = current_database()
    UNION ALL
    SELECT 'replication slot', s.slot_name::text, NULL, NULL, CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, age(s.xmin)
    FROM pg_replication_slots AS s
    WHERE s.xmin IS NOT NULL
) AS h
ORDER BY h.transactions DESC, h.since NULLS LAST
LIMIT 1
