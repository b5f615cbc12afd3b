-- The functions and procedures name rows of our own tables ONLY. A row is named by its place (ctid), which a row of a child in
-- inheritance may have too: without ONLY the child's rows were put back, or deleted, in place of ours.
-- Runs any number of times. Must not change once it is released.

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
            (outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,
             payload, headers, attempts, last_error, occurred_at)
        SELECT g.id, g.event_id, g.message_id, g.event_type, g.aggregate_type, g.aggregate_id,
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

-- Deletes dead-letter copies older than the interval by died_at, replayed or not.
CREATE OR REPLACE PROCEDURE messaging.prune_message_dlq(older_than interval)
LANGUAGE plpgsql
SECURITY INVOKER
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
    DELETE FROM ONLY messaging.message_dlq AS d WHERE d.died_at < cutoff;
    GET DIAGNOSTICS pruned_rows = ROW_COUNT;
    RAISE NOTICE 'prune_message_dlq: % rows deleted, older than %', pruned_rows, older_than;
END
$$;

-- True while this incarnation of Redis is the one that holds the stream; else an error (SQLSTATE DS001). Called in the statement that
-- settles rows as sent. The shared lock lasts until that statement has committed. An audit takes the same lock exclusively, so either
-- it sees the rows as sent, or the statement fails. Volatile: the function must read the table after it has the lock, not before.
CREATE OR REPLACE FUNCTION messaging.holds_stream(of_stream text, of_run_id text, of_replid text) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(1869968482, 4);
    PERFORM FROM ONLY messaging.stream_server AS s
    WHERE s.stream OPERATOR(pg_catalog.=) of_stream
      AND s.run_id OPERATOR(pg_catalog.=) of_run_id
      AND s.replid OPERATOR(pg_catalog.=) of_replid;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another run of Redis holds the stream now' USING ERRCODE = 'DS001';
    END IF;
    RETURN true;
END
$$;

-- Puts back the rows whose entries a new incarnation of Redis has lost: rows that were sent later than window_s seconds before the last
-- answer of the old incarnation, and whose entry id is above of_last_id, the newest one in the stream (0-0: there is no stream). At
-- most at_most rows a call. Call it again until `done` is true: from then on this incarnation is in the table.
CREATE OR REPLACE FUNCTION messaging.audit_stream(
    of_stream text, of_run_id text, of_replid text, of_last_id text, window_s double precision, at_most integer,
    OUT republished bigint, OUT done boolean, OUT changed boolean, OUT was_replid text
)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known messaging.stream_server;
BEGIN
    PERFORM pg_advisory_xact_lock(1869968482, 4);
    SELECT s.* INTO known FROM ONLY messaging.stream_server AS s WHERE s.stream = of_stream;
    was_replid := known.replid;
    changed := known.stream IS NOT NULL AND (known.run_id, known.replid) IS DISTINCT FROM (of_run_id, of_replid);
    republished := 0;
    IF changed THEN
        UPDATE ONLY messaging.message_outbox AS o
        SET status = 'pending', picked_at = NULL, picked_by = NULL, claim_id = NULL, sent_at = NULL, stream_id = NULL
        WHERE o.ctid = ANY (ARRAY(
            SELECT d.ctid
            FROM ONLY messaging.message_outbox AS d
            WHERE d.settled
              AND d.status = 'sent'
              AND d.sent_at >= known.seen_at - make_interval(secs => window_s)
              AND messaging.stream_order(d.stream_id) > messaging.stream_order(of_last_id)
            LIMIT at_most
            FOR UPDATE
        ));
        GET DIAGNOSTICS republished = ROW_COUNT;
    END IF;
    done := republished < at_most;
    IF done THEN
        INSERT INTO messaging.stream_server AS s (stream, run_id, replid, last_id)
        VALUES (of_stream, of_run_id, of_replid, of_last_id)
        ON CONFLICT (stream) DO UPDATE
        SET run_id = excluded.run_id, replid = excluded.replid, last_id = excluded.last_id, seen_at = excluded.seen_at;
    END IF;
END
$$;
