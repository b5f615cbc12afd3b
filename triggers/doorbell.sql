-- The doorbell: wakes a sleeping dispatcher when a transaction that wrote events commits, and costs next to nothing
-- when none sleeps. Optional: without it the dispatcher finds rows on its tick. Runs under plain `psql -f`, any number
-- of times. Undone by doorbell.down.sql.
--
-- At commit the trigger tries to take the key, an advisory lock, shared. A dispatcher holds it exclusively while it sleeps, and between
-- two sleeps while rows come slowly.
--   The key is free:  no dispatcher sleeps, and one of them asks for due rows after this transaction has released the key. No NOTIFY.
--   The key is taken: a dispatcher sleeps, is about to, or waits for rows that come slowly. NOTIFY, with an empty payload, once a
--   transaction. It takes a lock of the whole server until the commit is flushed, so no other commit pays for it.
--
-- `SET dispatcher.doorbell = off` mutes it for a session that must not NOTIFY (two-phase commit forbids it).
--
-- Names are qualified one by one: SET search_path on a function would cost every commit ten microseconds.

CREATE OR REPLACE FUNCTION messaging.ring_doorbell() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    -- One expression for the usual case, in which this is all that runs.
    IF pg_catalog.current_setting('dispatcher.doorbell', true) IN ('rang', 'off')
        OR pg_catalog.pg_try_advisory_xact_lock_shared(1869968482, 1)
    THEN
        RETURN NULL;
    END IF;
    PERFORM pg_catalog.pg_notify('outbox_doorbell', '');
    -- So the transaction's other rows do not ring again. The word is not 'rung': the trigger of an earlier release, until it is
    -- replaced below, sets 'rung' before this function has run, when nobody has rung yet. Where SET CONSTRAINTS ... IMMEDIATE made it
    -- ring inside a savepoint that is rolled back, this setting is undone, exactly as the NOTIFY is.
    PERFORM pg_catalog.set_config('dispatcher.doorbell', 'rang', true);
    RETURN NULL;
END
$$;

DO $$
BEGIN
    -- CREATE CONSTRAINT TRIGGER has no OR REPLACE; dropping a trigger that is right already would lock the table for nothing.
    IF EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = 'messaging.message_outbox'::regclass AND tgname = 'message_outbox_doorbell'
          AND tgqual IS NULL
    ) THEN
        RETURN;
    END IF;
    DROP TRIGGER IF EXISTS message_outbox_doorbell ON messaging.message_outbox; -- an earlier one, with a condition
    -- Deferred: the key is held for the length of a commit, not of a business transaction that stays open for seconds.
    -- No WHEN: evaluating one costs each statement more than the queued call it could spare (decision 0015).
    CREATE CONSTRAINT TRIGGER message_outbox_doorbell
        AFTER INSERT ON messaging.message_outbox
        DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW
        EXECUTE FUNCTION messaging.ring_doorbell();
    DROP FUNCTION IF EXISTS messaging.doorbell_not_rung();
END
$$;
