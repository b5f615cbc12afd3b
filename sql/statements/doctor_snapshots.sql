-- doctor_snapshots: finds what keeps dead row versions of this database from being removed.
-- Parameters: none.
-- Returns: one row, the one that holds back most: kind, name, user, application, state, for how many seconds (NULL: unknown), for
--   how many transactions. No row: nothing does.
-- Loaded by: dispatcher/ops/doctor/activity.py
-- Index: none; the statistics views.
SELECT h.kind, h.name, h.usename, h.application_name, h.state, h.held_s, h.transactions
FROM (
    SELECT
        'session' AS kind,
        a.pid::text AS name,
        a.usename::text,
        a.application_name,
        a.state,
        date_part('epoch', clock_timestamp() - a.xact_start) AS held_s,
        age(a.backend_xmin) AS transactions
    FROM pg_stat_activity AS a
    WHERE a.backend_xmin IS NOT NULL
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
        date_part('epoch', clock_timestamp() - p.prepared),
        age(p.transaction)
    FROM pg_prepared_xacts AS p
    WHERE p.database = current_database()
    UNION ALL
    SELECT 'replication slot', s.slot_name::text, NULL, NULL, CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, age(s.xmin)
    FROM pg_replication_slots AS s
    WHERE s.xmin IS NOT NULL
) AS h
ORDER BY h.transactions DESC, h.held_s DESC NULLS LAST
LIMIT 1
