-- The doorbell: wakes a sleeping dispatcher when a transaction that wrote events commits, and costs next to nothing
-- when none sleeps. Optional: without it the dispatcher finds rows on its tick. Runs under plain `psql -f`, any number
-- of times. Undone by doorbell.down.sql.
--
-- At commit the trigger tries to take advisory key K shared. A dispatcher holds K exclusively only while it sleeps, so
--   got it:  nobody sleeps; the running dispatcher will look again after this transaction lets K go. No NOTIFY.
--   not got: somebody sleeps; NOTIFY, with an empty payload.
-- NOTIFY takes an instance-wide lock until the commit is flushed; this way only the commits that end a sleep pay for it.
--
-- `SET dispatcher.doorbell = off` mutes it for a session that must not NOTIFY (two-phase commit forbids it).
--
-- Names are qualified one by one: SET search_path on a function would cost every commit ten microseconds.

CREATE OR REPLACE FUNCTION messaging.ring_doorbell() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(1869968482, 1) THEN
        PERFORM pg_catalog.pg_notify('outbox_doorbell', '');
    END IF;
    RETURN NULL;
END
$$;

-- True once a transaction, for the row that queues the ring: a COPY of a million rows would queue a million otherwise.
-- set_config(..., true) is undone with the savepoint or transaction that did it, exactly as the queued ring is, so a
-- rolled-back first insert cannot silence a later one. A function, because Postgres parses a WHEN expression anew for each
-- statement: written out in the WHEN, the same condition took four times as many instructions.
CREATE OR REPLACE FUNCTION messaging.doorbell_not_rung() RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    IF pg_catalog.current_setting('dispatcher.doorbell', true) IN ('rung', 'off') THEN
        RETURN false;
    END IF;
    -- Not PERFORM, which starts an executor: of 40,000 instructions a transaction, this saves 5,000.
    RETURN pg_catalog.set_config('dispatcher.doorbell', 'rung', true) IS NOT NULL;
END
$$;

DO $$
BEGIN
    -- CREATE CONSTRAINT TRIGGER has no OR REPLACE; dropping a trigger that is right already would lock the table for nothing.
    IF NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = 'messaging.message_outbox'::regclass AND tgname = 'message_outbox_doorbell'
    ) THEN
        -- Deferred: K is held for the length of a commit, not of a business transaction that stays open for seconds.
        CREATE CONSTRAINT TRIGGER message_outbox_doorbell
            AFTER INSERT ON messaging.message_outbox
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW
            WHEN (messaging.doorbell_not_rung())
            EXECUTE FUNCTION messaging.ring_doorbell();
    END IF;
END
$$;
