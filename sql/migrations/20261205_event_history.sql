-- What happened to an event that did not go well: each failed attempt, its death, and what a person decided. And what each dispatcher
-- says of itself, so that a person asks it, not the environment of a command.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

-- Written when something failed or a person acted, never for an event that goes well. At most twenty rows an event are kept.
CREATE TABLE IF NOT EXISTS messaging.message_history (
    outbox_id bigint      NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    what      text        NOT NULL,
    attempt   integer,
    actor     text,
    error     text,
    place     text,
    CONSTRAINT message_history_what_check CHECK (what IN ('failed', 'died', 'retried', 'discarded'))
);

CREATE INDEX IF NOT EXISTS message_history_event_idx ON messaging.message_history (outbox_id, at);
CREATE INDEX IF NOT EXISTS message_history_at_idx ON messaging.message_history (at);

COMMENT ON TABLE messaging.message_history IS 'What happened to events that failed: at most twenty rows an event, kept as long as dead-letter copies.';
COMMENT ON COLUMN messaging.message_history.outbox_id IS 'message_outbox.id of the event.';
COMMENT ON COLUMN messaging.message_history.at IS 'When it happened.';
COMMENT ON COLUMN messaging.message_history.what IS 'failed or died (an attempt), retried or discarded (by a person).';
COMMENT ON COLUMN messaging.message_history.attempt IS 'Number of the attempt that failed; NULL: no attempt.';
COMMENT ON COLUMN messaging.message_history.actor IS 'Name of the dispatcher that tried, or the person who acted; NULL: not known.';
COMMENT ON COLUMN messaging.message_history.error IS 'Error of the attempt, or the reason that the person gave.';
COMMENT ON COLUMN messaging.message_history.place IS 'File and line of the handler that raised; NULL: no handler did.';

ALTER TABLE messaging.message_dlq
    ADD COLUMN IF NOT EXISTS discarded_at timestamptz;
COMMENT ON COLUMN messaging.message_dlq.discarded_at IS 'When a person decided that nobody needs the event; NULL: nobody did.';
COMMENT ON COLUMN messaging.message_dlq.replayed_at IS 'When the event was put back, or discarded; NULL: the copy is open.';

ALTER TABLE messaging.pause_acknowledgement
    ADD COLUMN IF NOT EXISTS condition jsonb;
COMMENT ON COLUMN messaging.pause_acknowledgement.condition IS 'Its stream, MAXLEN and attempts, and what it waits for, as it says itself.';

-- Which errors are one kind: the text without its figures and UUIDs. error_figures leaves the figures in.
CREATE OR REPLACE FUNCTION messaging.error_figures(error text) RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
SELECT pg_catalog.regexp_replace(
    coalesce($1, ''), '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]+', '*', 'gi'
)
$$;

CREATE OR REPLACE FUNCTION messaging.error_code(error text) RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
SELECT pg_catalog.regexp_replace(messaging.error_figures($1), '[0-9]+', '#', 'g')
$$;

-- Whoever may use the dead-letter queue may use its history: a dispatcher that settles writes both, and sql/roles.sql may be run later.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT a.privilege_type,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = 'messaging.message_dlq'::regclass
          AND a.privilege_type IN ('SELECT', 'INSERT', 'DELETE')
          AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON messaging.message_history TO %s', given.privilege_type, given.grantee);
        EXECUTE format('GRANT EXECUTE ON FUNCTION messaging.error_figures(text), messaging.error_code(text) TO %s', given.grantee);
    END LOOP;
END
$$;

CREATE OR REPLACE PROCEDURE messaging.prune_message_dlq(IN older_than interval)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cutoff timestamptz := clock_timestamp() - older_than;
    pruned_rows bigint;
BEGIN
    IF older_than IS NULL OR older_than < interval '0' THEN
        RAISE EXCEPTION 'prune_message_dlq needs an interval of 0 or more, such as INTERVAL ''30 days''; this is %',
            coalesce(older_than::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(1869968482, 3);
    DELETE FROM ONLY messaging.message_history AS h WHERE h.at < cutoff;
    DELETE FROM ONLY messaging.message_dlq AS d WHERE d.died_at < cutoff;
    GET DIAGNOSTICS pruned_rows = ROW_COUNT;
    RAISE NOTICE 'prune_message_dlq: % rows deleted, older than %', pruned_rows, older_than;
END
$$;
