-- doctor_sessions: says how many connections there may be and are, and which sessions dispatchers have.
-- Parameters: none.
-- Returns: limit of this role and of this database (-1: none), of the server without what is reserved; connections of this role,
--   of this database, of the server; the application names of the dispatchers' sessions.
-- Loaded by: dispatcher/ops/doctor/sessions.py
-- Index: none; a few rows.
-- The role that logged in counts, also where another one is set for it (ALTER ROLE ... SET role, as Vault does).
SELECT
    coalesce(r.rolconnlimit, -1),
    d.datconnlimit,
    (
        SELECT sum(CASE s.name WHEN 'max_connections' THEN s.setting::int ELSE -s.setting::int END)
        FROM pg_settings AS s
        WHERE s.name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')
    ),
    count(*) FILTER (WHERE a.usesysid = r.oid),
    count(*) FILTER (WHERE a.datid = d.oid),
    count(*),
    coalesce(array_agg(a.application_name) FILTER (WHERE a.datid = d.oid AND a.application_name LIKE 'dispatcher %'), '{}')
FROM pg_database AS d
CROSS JOIN pg_stat_activity AS a
LEFT JOIN pg_roles AS r ON r.rolname = session_user
WHERE d.datname = current_database()
  AND coalesce(a.backend_type, 'client backend') = 'client backend' -- NULL: the session of a role that is none of ours
  AND a.datid IS NOT NULL
  AND a.usesysid IS NOT NULL
GROUP BY r.oid, r.rolconnlimit, d.oid, d.datconnlimit
