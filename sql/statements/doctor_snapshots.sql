-- Who: ops/doctor/activity.py, for `dispatcher doctor`, once. Index: none, the statistics views.
-- Answer: who keeps dead rows of this database from being removed: kind, name, user, application, state, for how many seconds (NULL:
-- may not be seen, or has no time), transactions since. The one that holds back most first.
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
