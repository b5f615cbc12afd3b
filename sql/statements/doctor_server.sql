-- Who: ops/doctor/postgres.py, for `dispatcher doctor`, once. Index: none.
-- Answer, always one row: the version, whether it is a standby, whether it takes no writes, the role, whether autovacuum runs.
SELECT
    current_setting('server_version'),
    pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on',
    current_user::text,
    current_setting('autovacuum') = 'on'
