-- drop_outbox: takes the outbox out of the database, with all that is in it. For a downgrade of a migration tool, never for a release.
-- Returns: nothing. Raises an error while events wait to be published, dead ones wait for a decision, or a dispatcher runs on it; then
--   nothing is dropped.
DO $$
DECLARE
    running text;
BEGIN
    IF to_regclass('messaging.message_outbox') IS NULL THEN
        RETURN;
    END IF;
    SELECT d.name INTO running
    FROM messaging.dispatcher AS d
    JOIN pg_locks AS l
      ON l.locktype = 'advisory' AND l.classid = 1869968483 AND l.objid = d.id::oid
      AND l.database = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
    LIMIT 1;
    IF running IS NOT NULL THEN
        RAISE EXCEPTION 'the dispatcher % runs on this outbox', running USING HINT = 'Stop it first.';
    END IF;
    LOCK TABLE messaging.message_outbox IN ACCESS EXCLUSIVE MODE; -- or an event that is committed now would be dropped unseen
    IF EXISTS (SELECT FROM messaging.message_outbox WHERE NOT settled) THEN
        RAISE EXCEPTION 'the outbox holds events that were not published: let a dispatcher publish them first'
            USING HINT = 'To lose them on purpose: DELETE FROM messaging.message_outbox WHERE NOT settled';
    END IF;
    IF to_regclass('messaging.dead_event') IS NOT NULL AND EXISTS (SELECT FROM messaging.dead_event) THEN
        RAISE EXCEPTION 'the outbox holds dead events about which nobody has decided'
            USING HINT = 'dispatcher dlq list shows them. Decide with dispatcher dlq retry or dispatcher dlq discard.';
    END IF;
    DROP SCHEMA messaging CASCADE;
END
$$
