-- For comparison only: the trigger every LISTEN/NOTIFY queue has. It notifies on every statement, on the doorbell's own
-- channel, so that the dispatcher is woken the same way.
CREATE OR REPLACE FUNCTION messaging.bench_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox_doorbell', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER bench_notify AFTER INSERT ON messaging.message_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION messaging.bench_notify();
