-- rights: asks which rights a dispatcher needs and our role lacks.
-- Parameters: none.
-- Returns: one row a missing right. No row: it has all.
-- Loaded by: dispatcher/ops/doctor/schema.py, dispatcher/service/targets.py
-- Index: none; the catalogue.
SELECT w.what
FROM (
    VALUES
        ('USAGE on schema messaging', has_schema_privilege('messaging', 'USAGE')),
        ('SELECT on messaging.message_outbox', has_table_privilege('messaging.message_outbox', 'SELECT')),
        ('UPDATE (status) on messaging.message_outbox',
         has_column_privilege('messaging.message_outbox', 'status', 'UPDATE')),
        ('UPDATE (claim_id) on messaging.message_outbox',
         has_column_privilege('messaging.message_outbox', 'claim_id', 'UPDATE')),
        ('UPDATE (stream) on messaging.message_outbox',
         has_column_privilege('messaging.message_outbox', 'stream', 'UPDATE')),
        ('INSERT on messaging.message_dlq', has_any_column_privilege('messaging.message_dlq', 'INSERT')),
        ('INSERT on messaging.dispatcher', has_any_column_privilege('messaging.dispatcher', 'INSERT')),
        ('SELECT on messaging.pause', has_table_privilege('messaging.pause', 'SELECT')),
        ('INSERT on messaging.pause_acknowledgement',
         has_any_column_privilege('messaging.pause_acknowledgement', 'INSERT')),
        ('INSERT on messaging.stream_server', has_any_column_privilege('messaging.stream_server', 'INSERT')),
        ('INSERT on messaging.unbroken', has_any_column_privilege('messaging.unbroken', 'INSERT')),
        ('UPDATE on messaging.unbroken', has_any_column_privilege('messaging.unbroken', 'UPDATE')),
        ('SELECT on messaging.layout', has_table_privilege('messaging.layout', 'SELECT')),
        ('INSERT on messaging.home', has_any_column_privilege('messaging.home', 'INSERT')),
        ('UPDATE on messaging.newest_entry', has_any_column_privilege('messaging.newest_entry', 'UPDATE')),
        ('EXECUTE on messaging.audit_stream',
         has_function_privilege(
             'messaging.audit_stream(text,text,text,bigint,text,text,text,bigint,text,double precision,integer,bigint,boolean)',
             'EXECUTE'
         ))
    UNION ALL
    -- Open to everybody, unless default privileges say otherwise.
    SELECT 'EXECUTE on ' || p.oid::regprocedure::text, has_function_privilege(p.oid, 'EXECUTE')
    FROM pg_proc AS p
    WHERE p.oid IN (
        to_regprocedure('messaging.stream_order(text)'),
        to_regprocedure('messaging.holds_stream(text,text,text,bigint)'),
        to_regprocedure('messaging.holds_streams(text[],text[],text[],bigint[])')
    )
) AS w (what, granted)
WHERE NOT w.granted
