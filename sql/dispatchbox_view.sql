-- Lets applications go on inserting into outbox_event: it becomes a view of messaging.message_outbox, with the columns of
-- Dispatchbox's table (docs/how-to/migrate-from-dispatchbox.md). After sql/migrate_from_dispatchbox.sql, as the owner of both:
--
--     psql "$DATABASE_URL" -f sql/dispatchbox_view.sql
--
-- The table is kept as outbox_event_dispatchbox. Move what was inserted into it meanwhile:
--     PGOPTIONS="-c dispatcher.dispatchbox_table=outbox_event_dispatchbox" psql "$DATABASE_URL" -f sql/migrate_from_dispatchbox.sql
-- Back: DROP VIEW outbox_event; ALTER TABLE outbox_event_dispatchbox RENAME TO outbox_event;

DO $$
DECLARE
    old_table regclass := to_regclass('outbox_event');
    may record;
BEGIN
    IF old_table IS NULL THEN
        RAISE EXCEPTION 'there is no table outbox_event here: connect to the database that Dispatchbox uses';
    END IF;
    IF (SELECT c.relkind = 'v' FROM pg_class AS c WHERE c.oid = old_table) THEN
        RAISE NOTICE 'outbox_event is a view already';
        RETURN;
    END IF;
    -- Inserts wait behind this lock; a transaction that never ends must not hold all of them up.
    PERFORM set_config('lock_timeout', '5s', true);
    ALTER TABLE outbox_event RENAME TO outbox_event_dispatchbox;
    EXECUTE format(
        $view$
            CREATE VIEW %I.outbox_event AS
            SELECT o.id, o.aggregate_type, o.aggregate_id, o.event_type, o.payload, o.status, o.attempts, o.next_run_at,
                   o.occurred_at AS created_at
            FROM messaging.message_outbox AS o
        $view$,
        (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = old_table)
    );
    -- Who might insert and read may still; nobody else's UPDATE is let through: a forgotten Dispatchbox fails instead of sending.
    FOR may IN
        SELECT a.privilege_type AS what, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS who
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = old_table AND a.privilege_type IN ('INSERT', 'SELECT') AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON outbox_event TO %s', may.what, may.who);
    END LOOP;
END
$$;
