-- Group roles with no more rights than their job needs. Optional. Run it after the migrations, as the tables' owner with
-- CREATEROLE (or as a superuser), any number of times:
--     dispatcher sql roles | psql "$DATABASE_URL" -v ON_ERROR_STOP=1
--     CREATE ROLE app LOGIN PASSWORD '...' IN ROLE outbox_producer;
-- Migrating (`dispatcher migrate`) stays with the owner. Roles are shared by all databases of a server; their rights are not.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['outbox_producer', 'outbox_dispatcher', 'outbox_pruner'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA messaging TO outbox_producer, outbox_dispatcher, outbox_pruner;

-- Functions and procedures are open to everybody by default, unless ALTER DEFAULT PRIVILEGES says otherwise: nothing relies on that.
REVOKE ALL ON PROCEDURE messaging.prune_message_outbox(interval), messaging.prune_message_dlq(interval) FROM PUBLIC;

-- The application: writes events, reads none. The identity column and the doorbell need no right of their own.
GRANT INSERT (event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, status, attempts, next_run_at, occurred_at)
    ON messaging.message_outbox TO outbox_producer;
-- For INSERT ... RETURNING (an ORM's habit) and ON CONFLICT (event_id) DO NOTHING.
GRANT SELECT (id, event_id) ON messaging.message_outbox TO outbox_producer;

-- The dispatcher claims, settles and prunes, and never changes what the producer wrote. It inserts only dead events that are replayed
-- after their rows were pruned.
GRANT SELECT, DELETE ON messaging.message_outbox TO outbox_dispatcher;
GRANT UPDATE (status, attempts, next_run_at, picked_at, sent_at, picked_by, claim_id, stream_id, stream, last_error)
    ON messaging.message_outbox TO outbox_dispatcher;
GRANT INSERT (id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, occurred_at, next_run_at)
    ON messaging.message_outbox TO outbox_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.message_dlq TO outbox_dispatcher;
GRANT SELECT, INSERT, DELETE ON messaging.message_history TO outbox_dispatcher;
GRANT SELECT ON messaging.dead_event TO outbox_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.dispatcher TO outbox_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.stream_server TO outbox_dispatcher;
-- It obeys the pause and notes that it does; `dispatcher pause` and `resume` run as this role too.
GRANT SELECT, INSERT, UPDATE ON messaging.pause TO outbox_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.pause_acknowledgement TO outbox_dispatcher;
GRANT SELECT, UPDATE ON messaging.newest_entry TO outbox_dispatcher;
GRANT SELECT, INSERT, UPDATE ON messaging.layout TO outbox_dispatcher;
GRANT SELECT, UPDATE ON messaging.slot_owner TO outbox_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.unbroken, messaging.home TO outbox_dispatcher;
GRANT EXECUTE ON FUNCTION messaging.audit_stream(text, text, text, text, double precision, integer),
    messaging.holds_stream(text, text, text), messaging.stream_order(text),
    messaging.error_figures(text), messaging.error_code(text) TO outbox_dispatcher;
GRANT EXECUTE ON FUNCTION
    messaging.audit_stream(text, text, text, bigint, text, text, text, bigint, text, double precision, integer, bigint),
    messaging.audit_stream(text, text, text, bigint, text, text, text, bigint, text, double precision, integer, bigint, boolean),
    messaging.holds_stream(text, text, text, bigint), messaging.holds_streams(text[], text[], text[], bigint[]),
    messaging.set_layout(text, jsonb, text[], text[], text, boolean),
    messaging.this_cluster(), messaging.this_timeline(), messaging.settle_here(), messaging.why_copy(boolean), messaging.accept_copy()
    TO outbox_dispatcher;
GRANT EXECUTE ON PROCEDURE messaging.prune_message_outbox(interval), messaging.prune_message_dlq(interval) TO outbox_dispatcher;

-- `dispatcher doctor` asks whether a sequence was left behind by a restore or a logical upgrade.
GRANT SELECT ON SEQUENCE messaging.message_outbox_id_seq, messaging.message_dlq_id_seq, messaging.dispatcher_id_seq
    TO outbox_dispatcher;

-- An operator's cron job: the two procedures run with the caller's rights. They read and delete rows, and add and close copies in the
-- dead-letter queue.
GRANT EXECUTE ON PROCEDURE messaging.prune_message_outbox(interval), messaging.prune_message_dlq(interval) TO outbox_pruner;
GRANT SELECT, DELETE ON messaging.message_outbox TO outbox_pruner;
GRANT SELECT, INSERT, DELETE ON messaging.message_dlq TO outbox_pruner;
GRANT SELECT, DELETE ON messaging.message_history TO outbox_pruner;
GRANT SELECT ON messaging.layout TO outbox_pruner;
GRANT UPDATE (replayed_at, replay_count) ON messaging.message_dlq TO outbox_pruner;
