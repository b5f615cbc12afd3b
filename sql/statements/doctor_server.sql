-- doctor_server: describes the server.
-- Parameters: none.
-- Returns: one row: version, whether it is a standby, whether it is read-only, our role, whether autovacuum runs.
-- Loaded by: dispatcher/ops/doctor/postgres.py, dispatcher/ops/doctor/storage.py
-- Index: none.
SELECT
    current_setting('server_version'),
    pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on',
    current_user::text,
    current_setting('autovacuum') = 'on'
