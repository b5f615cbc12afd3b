-- doctor_sessions: says how many connections there may be and are, and which sessions dispatchers have.
-- Parameters: none.
-- Returns: limit of this role and of this database (-1: none), of the server without what is reserved; connections of this role,
--   of this database, of the server; the application names of the dispatchers' sessions.
-- Loaded by: dispatcher/ops/doctor/sessions.py
-- Index: none; a few rows.
SELECT
    r.rolconnlimit,
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
FROM pg_roles AS r, pg_database AS d, pg_stat_activity AS a
WHERE r.rolname = current_user
  AND d.datname = current_database()
  AND a.backend_type = 'client backend'
GROUP BY r.oid, r.rolconnlimit, d.oid, d.datconnlimit
