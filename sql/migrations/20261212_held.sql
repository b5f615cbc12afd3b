-- Held aggregates: an event that a person skipped says so in its history, and prune leaves the dead rows that hold later events.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_constraint AS c
        WHERE c.conrelid = 'messaging.message_history'::regclass
          AND c.conname = 'message_history_what_check'
          AND pg_get_constraintdef(c.oid) LIKE '%skipped%'
    ) THEN
        RETURN;
    END IF;
    ALTER TABLE messaging.message_history DROP CONSTRAINT IF EXISTS message_history_what_check;
    -- NOT VALID: what is there passed the narrower check; to read it all under this lock would hold up the dispatchers.
    ALTER TABLE messaging.message_history ADD CONSTRAINT message_history_what_check
        CHECK (what IN ('failed', 'died', 'retried', 'discarded', 'skipped')) NOT VALID;
END
$$;
ALTER TABLE messaging.message_history VALIDATE CONSTRAINT message_history_what_check;
COMMENT ON COLUMN messaging.message_history.what IS 'failed or died (an attempt), retried, discarded or skipped (by a person).';

-- Who may prune by the procedure reads how dead rows are treated, also before sql/roles.sql was run again.
DO $$
DECLARE
    who text;
BEGIN
    FOR who IN
        SELECT DISTINCT a.grantee::regrole::text
        FROM pg_proc AS p
        CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE p.oid = 'messaging.prune_message_outbox(interval)'::regprocedure
          AND a.privilege_type = 'EXECUTE'
          AND a.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE 'GRANT SELECT ON messaging.layout TO ' || who;
    END LOOP;
END
$$;

CREATE OR REPLACE PROCEDURE messaging.prune_message_outbox(IN older_than interval)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cutoff timestamptz := clock_timestamp() - older_than;
    dead_rows bigint;
    sent_rows bigint;
    held_rows bigint := 0;
    holds boolean;
BEGIN
    IF older_than IS NULL OR older_than < interval '0' THEN
        RAISE EXCEPTION 'prune_message_outbox needs an interval of 0 or more, such as INTERVAL ''7 days''; this is %',
            coalesce(older_than::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Two cron runs at once would delete in different orders and deadlock; the second one waits instead.
    PERFORM pg_advisory_xact_lock(1869968482, 3);

    holds := coalesce((SELECT l.spec ->> 'order_on_dead' = 'hold' FROM ONLY messaging.layout AS l), false);
    IF holds THEN
        SELECT count(*) INTO held_rows
        FROM ONLY messaging.message_outbox AS o
        WHERE o.settled
          AND o.status = 'dead'
          AND o.occurred_at < cutoff
          AND coalesce(o.picked_at, o.occurred_at) < cutoff;
    END IF;

    -- A row marked dead by hand has no copy yet; it gets one, so that it can still be listed and replayed.
    -- With DISPATCH_ORDER_ON_DEAD=hold a dead row holds the later events of its aggregate: without it they would go out.
    WITH gone AS (
        DELETE FROM ONLY messaging.message_outbox AS o
        WHERE NOT holds
          AND o.settled
          AND o.status = 'dead'
          AND o.occurred_at < cutoff
          AND coalesce(o.picked_at, o.occurred_at) < cutoff
        RETURNING o.*
    ),
    kept AS (
        INSERT INTO messaging.message_dlq
            (id, outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,
             payload, headers, attempts, last_error, occurred_at)
        SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 2048 - 9223372036854775807 + row_number() OVER (), -- see settle_dead.sql
               g.id, g.event_id, g.message_id, g.event_type, g.aggregate_type, g.aggregate_id,
               g.payload, g.headers, g.attempts, g.last_error, g.occurred_at
        FROM gone AS g
        ON CONFLICT (outbox_id) WHERE replayed_at IS NULL DO NOTHING
    )
    SELECT count(*) INTO dead_rows FROM gone;

    -- A row that was replayed by a plain UPDATE, then sent, leaves an open copy; without its row it would look dead again.
    WITH gone AS (
        DELETE FROM ONLY messaging.message_outbox AS o
        WHERE o.settled
          AND o.status = 'sent'
          AND (o.sent_at < cutoff OR (o.sent_at IS NULL AND o.occurred_at < cutoff))
        RETURNING o.id
    ),
    closed AS (
        UPDATE ONLY messaging.message_dlq AS d
        SET replayed_at = clock_timestamp(), replay_count = d.replay_count + 1
        FROM gone AS g
        WHERE d.outbox_id = g.id AND d.replayed_at IS NULL
    )
    SELECT count(*) INTO sent_rows FROM gone;

    RAISE NOTICE 'prune_message_outbox: % rows deleted, % sent and % dead, older than %',
        sent_rows + dead_rows, sent_rows, dead_rows, older_than;
    IF held_rows > 0 THEN
        RAISE NOTICE 'prune_message_outbox: % dead rows are left, for they hold the later events of their aggregates; '
            '`dispatcher held` and `dispatcher dlq` end them', held_rows;
    END IF;
END
$$;
