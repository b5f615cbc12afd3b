-- Which run of Redis holds each stream. Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14
-- and later. Immutable once released: a later change is a later file.

-- One row a stream. A dispatcher publishes only on a connection to the run of Redis that is written here, and settles rows as sent
-- only while that run is still the one they were published to. Whoever meets another run calls messaging.audit_stream first.
-- last_id is the newest entry at the last audit; seen_at is when a dispatcher last had an answer from that run.
CREATE TABLE IF NOT EXISTS messaging.stream_server (
    stream  text        NOT NULL,
    run_id  text        NOT NULL,
    replid  text        NOT NULL,
    last_id text        NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT stream_server_pkey PRIMARY KEY (stream)
);

-- Entry ids are pairs of numbers, not text. NULL for what is no entry id, such as a person's note.
CREATE OR REPLACE FUNCTION messaging.stream_order(stream_id text) RETURNS numeric[]
LANGUAGE sql
IMMUTABLE
AS $$
SELECT CASE
    WHEN $1 OPERATOR(pg_catalog.~) '^[0-9]{1,20}-[0-9]{1,20}$' THEN pg_catalog.string_to_array($1, '-')::pg_catalog.numeric[]
END
$$;

-- True while this run of Redis is the one that holds the stream; an error (SQLSTATE DS001) when it is not. Called in the
-- statement that settles rows as sent. The shared lock lasts until that statement has committed, so an audit, which takes it
-- exclusively, sees either the row as sent, or makes the statement fail. Volatile: it looks after it has the lock, not before.
CREATE OR REPLACE FUNCTION messaging.holds_stream(of_stream text, of_run_id text, of_replid text) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(1869968482, 4);
    PERFORM FROM messaging.stream_server AS s
    WHERE s.stream OPERATOR(pg_catalog.=) of_stream
      AND s.run_id OPERATOR(pg_catalog.=) of_run_id
      AND s.replid OPERATOR(pg_catalog.=) of_replid;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another run of Redis holds the stream now' USING ERRCODE = 'DS001';
    END IF;
    RETURN true;
END
$$;

-- Puts back what another run of Redis has lost: rows sent since `window_s` before the last answer of the run that is written
-- down, whose entry id is above the newest one there is (of_last_id; 0-0 when there is no stream). At most `at_most` rows; call it
-- again until `done`, which says that this run is written down and may be published to.
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
    SELECT s.* INTO known FROM messaging.stream_server AS s WHERE s.stream = of_stream;
    was_replid := known.replid;
    changed := known.stream IS NOT NULL AND (known.run_id, known.replid) IS DISTINCT FROM (of_run_id, of_replid);
    republished := 0;
    IF changed THEN
        UPDATE messaging.message_outbox AS o
        SET status = 'pending', picked_at = NULL, picked_by = NULL, claim_id = NULL, sent_at = NULL, stream_id = NULL
        WHERE o.ctid = ANY (ARRAY(
            SELECT d.ctid
            FROM messaging.message_outbox AS d
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

REVOKE ALL ON FUNCTION messaging.audit_stream(text, text, text, text, double precision, integer) FROM PUBLIC;
