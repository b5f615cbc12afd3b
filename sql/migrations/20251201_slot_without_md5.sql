-- slot is a hash that no server refuses: under FIPS md5 fails, and with it each INSERT. And the procedures give each copy in the
-- dead-letter queue an id that no sequence gives: a sequence that was left behind by a logical upgrade gives ids that are taken.
-- Runs any number of times. Must not change once it is released.

-- The lock keeps writers out while the table is written anew: about half a second for 32 MB. A larger table is not written anew: its
-- new rows have slot 0, and only people and releases before this one read the column. A claim computes the hash from aggregate_id.
DO $$
DECLARE
    how text := (
        SELECT pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attrdef AS d
        JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE a.attrelid = 'messaging.message_outbox'::regclass AND a.attname = 'slot' AND a.attgenerated <> ''
    );
    small constant bigint := 32 * 1024 * 1024;
BEGIN
    IF how IS NULL OR how NOT LIKE '%md5%' THEN
        RETURN;
    END IF;
    IF pg_table_size('messaging.message_outbox') <= small THEN
        BEGIN
            ALTER TABLE messaging.message_outbox DROP COLUMN slot;
            ALTER TABLE messaging.message_outbox ADD COLUMN slot smallint
                GENERATED ALWAYS AS ((hashtextextended(aggregate_id, 0) & 255)::smallint) STORED;
            RETURN;
        EXCEPTION
            WHEN dependent_objects_still_exist THEN NULL; -- a view of somebody's reads it: it stays
        END;
    END IF;
    ALTER TABLE messaging.message_outbox ALTER COLUMN slot DROP EXPRESSION;
    ALTER TABLE messaging.message_outbox ALTER COLUMN slot SET DEFAULT 0;
END
$$;

COMMENT ON COLUMN messaging.message_outbox.slot IS
    '0 to 255, a hash of aggregate_id; for people, and for releases before 20251201. Claims compute it: hashtextextended(aggregate_id, 0) & 255.';

-- Deletes settled rows older than the interval: sent ones by sent_at, dead ones by their last claim. Never an unsettled one.
-- A row that a person marked dead or sent by hand has no such time; occurred_at stands in.
-- No COMMIT inside: an operator's cron runs both procedures in one `psql -c`, which is one transaction.
CREATE OR REPLACE PROCEDURE messaging.prune_message_outbox(older_than interval)
LANGUAGE plpgsql
SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cutoff timestamptz := clock_timestamp() - older_than;
    dead_rows bigint;
    sent_rows bigint;
BEGIN
    IF older_than IS NULL OR older_than < interval '0' THEN
        RAISE EXCEPTION 'prune_message_outbox needs an interval of 0 or more, such as INTERVAL ''7 days''; this is %',
            coalesce(older_than::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Two cron runs at once would delete in different orders and deadlock; the second one waits instead.
    PERFORM pg_advisory_xact_lock(1869968482, 3);

    -- A row marked dead by hand has no copy yet; it gets one, so that it can still be listed and replayed.
    WITH gone AS (
        DELETE FROM ONLY messaging.message_outbox AS o
        WHERE o.settled
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
END
$$;
