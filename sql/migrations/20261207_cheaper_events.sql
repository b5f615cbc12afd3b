-- An event costs its writer and its settle less: docs/explanation/decisions/0020-what-an-event-costs-in-postgres.md.
-- Runs any number of times. Must not change once it is released.
--
-- Each part locks the table for a moment and reads none of it, but for the CHECK of a table below 256 MB.

-- Refuses, at the producer's insert, a row that would later fail a whole batch of the dispatcher: a time that Python cannot hold, a
-- count that overflows, a claim without a time. CHECK constraints did this, under the same names. Postgres reads and plans the text of
-- each CHECK and each generated column anew in every statement: two fifths of an INSERT. A function is kept.
-- Names are qualified one by one: SET search_path on a function would cost every insert ten microseconds.
CREATE OR REPLACE FUNCTION messaging.check_event() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    broken pg_catalog.text;
BEGIN
    -- One expression for the usual case, in which this is all that runs.
    IF NEW.attempts OPERATOR(pg_catalog.>=) 0
        AND (NEW.attempts OPERATOR(pg_catalog.<) 1000000 OR NEW.status OPERATOR(pg_catalog.=) 'dead')
        AND NEW.occurred_at OPERATOR(pg_catalog.>=) '0001-01-01 00:00:00+00'::pg_catalog.timestamptz
        AND NEW.occurred_at OPERATOR(pg_catalog.<) '9999-12-31 00:00:00+00'::pg_catalog.timestamptz
        AND NEW.next_run_at OPERATOR(pg_catalog.>=) '0001-01-01 00:00:00+00'::pg_catalog.timestamptz
        AND (NEW.status OPERATOR(pg_catalog.<>) 'picked' OR NEW.picked_at IS NOT NULL)
    THEN
        IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
            NEW.slot := pg_catalog.hashtextextended(NEW.aggregate_id, 0) OPERATOR(pg_catalog.&) 255;
        END IF;
        RETURN NEW;
    END IF;
    broken := CASE
        WHEN NEW.attempts OPERATOR(pg_catalog.<) 0
            OR (NEW.attempts OPERATOR(pg_catalog.>=) 1000000 AND NEW.status OPERATOR(pg_catalog.<>) 'dead')
        THEN 'attempts'
        WHEN NEW.occurred_at OPERATOR(pg_catalog.<) '0001-01-01 00:00:00+00'::pg_catalog.timestamptz
            OR NEW.occurred_at OPERATOR(pg_catalog.>=) '9999-12-31 00:00:00+00'::pg_catalog.timestamptz
        THEN 'occurred_at'
        WHEN NEW.next_run_at OPERATOR(pg_catalog.<) '0001-01-01 00:00:00+00'::pg_catalog.timestamptz THEN 'next_run_at'
        WHEN NEW.status OPERATOR(pg_catalog.=) 'picked' AND NEW.picked_at IS NULL THEN 'picked'
    END;
    IF broken IS NULL THEN
        RETURN NEW; -- a NULL: the column's own NOT NULL refuses it, and names it
    END IF;
    broken := pg_catalog.format('message_outbox_%s_check', broken);
    RAISE EXCEPTION 'new row for relation "message_outbox" violates check constraint "%"', broken
        USING ERRCODE = 'check_violation', SCHEMA = 'messaging', TABLE = 'message_outbox', CONSTRAINT = broken;
END
$$;

DO $$
DECLARE
    outbox constant regclass := 'messaging.message_outbox';
    small constant boolean := pg_table_size(outbox) <= 256 * 1024 * 1024;
BEGIN
    -- What was checked by the CHECK constraint is in order; NOT VALID spares reading a large table for it.
    IF NOT EXISTS (
        SELECT FROM pg_constraint AS c
        WHERE c.conrelid = outbox AND c.conname = 'message_outbox_status_check' AND pg_get_constraintdef(c.oid) LIKE '%{pending,%'
    ) THEN
        ALTER TABLE messaging.message_outbox DROP CONSTRAINT IF EXISTS message_outbox_status_check;
        -- One array, not a list: a list is put together anew in each statement.
        EXECUTE $check$
            ALTER TABLE messaging.message_outbox ADD CONSTRAINT message_outbox_status_check
            CHECK (status = ANY ('{pending,picked,retry,sent,dead}'::text[]))
        $check$ || CASE WHEN small THEN '' ELSE 'NOT VALID' END;
    END IF;
    IF EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = outbox AND a.attname = 'slot' AND a.attgenerated <> ''
    ) THEN
        ALTER TABLE messaging.message_outbox ALTER COLUMN slot DROP EXPRESSION;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = outbox AND t.tgname = 'message_outbox_check') THEN
        CREATE TRIGGER message_outbox_check
            BEFORE INSERT ON messaging.message_outbox
            FOR EACH ROW
            EXECUTE FUNCTION messaging.check_event();
        -- After, not before: a trigger before an update locks each row once more. Claims and settles change none of these columns, but
        -- for retries and deaths.
        CREATE TRIGGER message_outbox_check_update
            AFTER UPDATE OF attempts, next_run_at, occurred_at ON messaging.message_outbox
            FOR EACH ROW
            EXECUTE FUNCTION messaging.check_event();
        ALTER TABLE messaging.message_outbox
            DROP CONSTRAINT IF EXISTS message_outbox_attempts_check,
            DROP CONSTRAINT IF EXISTS message_outbox_occurred_at_check,
            DROP CONSTRAINT IF EXISTS message_outbox_next_run_at_check,
            DROP CONSTRAINT IF EXISTS message_outbox_picked_check;
    END IF;
END
$$;

COMMENT ON COLUMN messaging.message_outbox.slot IS
    '0 to 255, a hash of aggregate_id; for people, and for releases before 20251201. Claims compute it: hashtextextended(aggregate_id, 0) & 255.';
