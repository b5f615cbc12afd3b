-- drop_outbox: takes the outbox out of the database, with all that is in it. For a downgrade of a migration tool, never for a release.
-- Returns: nothing. Raises an error while events wait to be published, or a dispatcher runs on it; then nothing is dropped.
DO $$
BEGIN
    IF to_regclass('messaging.message_outbox') IS NULL THEN
        RETURN;
    END IF;
    LOCK TABLE messaging.message_outbox IN ACCESS EXCLUSIVE MODE; -- or an event that is committed now would be dropped unseen
    IF EXISTS (SELECT FROM messaging.message_outbox WHERE NOT settled) THEN
        RAISE EXCEPTION 'the outbox holds events that were not published: let a dispatcher publish them first'
            USING HINT = 'To lose them on purpose: DELETE FROM messaging.message_outbox WHERE NOT settled';
    END IF;
    DROP SCHEMA messaging CASCADE;
END
$$
