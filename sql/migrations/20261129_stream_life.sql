-- A loss of entries in Redis is bounded by entry ids, and is noticed while the server stays the same.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

-- Two readings of a clock say nothing of the order of two things: it may have been set back in between. Entry ids have an order. The
-- window of an audit begins at an entry id, and the rows are found by the lowest reading of the clock since that entry.
ALTER TABLE messaging.stream_server
    ADD COLUMN IF NOT EXISTS life      bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS newest_id text,
    ADD COLUMN IF NOT EXISTS added     bigint,
    ADD COLUMN IF NOT EXISTS window_id text,
    ADD COLUMN IF NOT EXISTS window_at timestamptz,
    ADD COLUMN IF NOT EXISTS mark_id   text,
    ADD COLUMN IF NOT EXISTS mark_at   timestamptz,
    ADD COLUMN IF NOT EXISTS lost_at   timestamptz,
    ADD COLUMN IF NOT EXISTS lost_rows bigint,
    ADD COLUMN IF NOT EXISTS lost_why  text;

COMMENT ON COLUMN messaging.stream_server.life IS 'Number of times that the stream lost its end while this or an earlier server ran on.';
COMMENT ON COLUMN messaging.stream_server.newest_id IS 'Newest entry id that a dispatcher knows, noted every few seconds.';
COMMENT ON COLUMN messaging.stream_server.added IS 'How many entries had been added to the stream by then; NULL: Redis does not tell.';
COMMENT ON COLUMN messaging.stream_server.window_id IS 'An audit puts back only entries above this id; NULL: not known yet, window_at serves alone.';
COMMENT ON COLUMN messaging.stream_server.window_at IS 'Lowest reading of the clock from window_id to mark_id.';
COMMENT ON COLUMN messaging.stream_server.mark_id IS 'The next window_id: the newest entry id when it was noted.';
COMMENT ON COLUMN messaging.stream_server.mark_at IS 'Lowest reading of the clock since mark_id.';
COMMENT ON COLUMN messaging.stream_server.lost_at IS 'When an audit last found that entries were lost.';
COMMENT ON COLUMN messaging.stream_server.lost_rows IS 'How many rows it put back.';
COMMENT ON COLUMN messaging.stream_server.lost_why IS 'What had happened.';

-- As messaging.holds_stream(text, text, text), for one life of the stream. A clock that was set back is noted here: rows that are
-- settled from now on bear a lower time than the mark.
CREATE OR REPLACE FUNCTION messaging.holds_stream(of_stream text, of_run_id text, of_replid text, of_life bigint) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    low pg_catalog.timestamptz;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(1869968482, 4);
    SELECT s.mark_at INTO low
    FROM ONLY messaging.stream_server AS s
    WHERE s.stream OPERATOR(pg_catalog.=) of_stream
      AND s.run_id OPERATOR(pg_catalog.=) of_run_id
      AND s.replid OPERATOR(pg_catalog.=) of_replid
      AND s.life OPERATOR(pg_catalog.=) of_life;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another run of Redis holds the stream now' USING ERRCODE = 'DS001';
    END IF;
    IF low OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN
        UPDATE ONLY messaging.stream_server AS s
        SET mark_at = LEAST(s.mark_at, pg_catalog.clock_timestamp())
        WHERE s.stream OPERATOR(pg_catalog.=) of_stream;
    END IF;
    RETURN true;
END
$$;

-- Puts back the rows whose entries are lost: those of the window whose entry id is above of_last_id (the newest one in the stream; 0-0:
-- there is no stream) and below of_below (the oldest one that was added after the loss; NULL: none was). of_life: the life for which
-- the entries were found to be lost while the server ran on; NULL: none were, and only another incarnation is audited. At most at_most
-- rows a call; so_far: those of the calls before. Call it again until `done` is true: from then on this incarnation and this life are
-- in the table.
CREATE OR REPLACE FUNCTION messaging.audit_stream(
    of_stream text, of_run_id text, of_replid text, of_life bigint, of_last_id text, of_below text, of_newest_id text,
    of_added bigint, why text, window_s double precision, at_most integer, so_far bigint,
    OUT republished bigint, OUT done boolean, OUT changed boolean, OUT was_replid text, OUT now_life bigint
)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known messaging.stream_server;
    same boolean;
    from_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(1869968482, 4);
    SELECT s.* INTO known FROM ONLY messaging.stream_server AS s WHERE s.stream = of_stream;
    was_replid := known.replid;
    same := known.stream IS NOT NULL AND (known.run_id, known.replid) = (of_run_id, of_replid);
    republished := 0;
    done := true;
    changed := known.stream IS NOT NULL AND (NOT same OR coalesce(known.life = of_life, false));
    now_life := coalesce(known.life, 0);
    IF same AND NOT changed THEN
        RETURN; -- somebody else has audited it
    END IF;
    IF changed THEN
        -- The least of all readings that may precede the loss: a clock that was set back must not hide a row.
        from_at := least(known.seen_at, known.window_at, known.mark_at, clock_timestamp()) - make_interval(secs => window_s);
        UPDATE ONLY messaging.message_outbox AS o
        SET status = 'pending', picked_at = NULL, picked_by = NULL, claim_id = NULL, sent_at = NULL, stream_id = NULL
        WHERE o.ctid = ANY (ARRAY(
            SELECT d.ctid
            FROM ONLY messaging.message_outbox AS d
            WHERE d.settled
              AND d.status = 'sent'
              AND d.sent_at >= from_at
              AND messaging.stream_order(d.stream_id) > greatest(
                  messaging.stream_order(of_last_id), messaging.stream_order(known.window_id)
              )
              AND (of_below IS NULL OR messaging.stream_order(d.stream_id) < messaging.stream_order(of_below))
            LIMIT at_most
            FOR UPDATE
        ));
        GET DIAGNOSTICS republished = ROW_COUNT;
        done := republished < at_most;
    END IF;
    IF done THEN
        now_life := now_life + same::integer;
        INSERT INTO messaging.stream_server AS s (stream, run_id, replid, last_id, newest_id, added, mark_id, mark_at)
        VALUES (of_stream, of_run_id, of_replid, of_last_id, of_newest_id, of_added, of_newest_id, clock_timestamp())
        ON CONFLICT (stream) DO UPDATE
        SET run_id = excluded.run_id,
            replid = excluded.replid,
            life = now_life,
            last_id = excluded.last_id,
            seen_at = excluded.seen_at,
            newest_id = excluded.newest_id,
            added = excluded.added,
            -- What is older than the window stays lost. If all of the window was lost, the next one begins with this life.
            window_id = CASE
                WHEN messaging.stream_order(s.window_id) <= messaging.stream_order(of_last_id) THEN s.window_id
            END,
            window_at = CASE
                WHEN s.window_id IS NULL OR messaging.stream_order(s.window_id) <= messaging.stream_order(of_last_id)
                THEN least(s.window_at, s.mark_at)
            END,
            mark_id = of_last_id,
            mark_at = excluded.mark_at,
            lost_at = CASE WHEN same OR so_far + republished > 0 THEN excluded.seen_at ELSE s.lost_at END,
            lost_rows = CASE WHEN same OR so_far + republished > 0 THEN so_far + republished ELSE s.lost_rows END,
            lost_why = CASE WHEN same OR so_far + republished > 0 THEN why ELSE s.lost_why END;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION messaging.audit_stream(
    text, text, text, bigint, text, text, text, bigint, text, double precision, integer, bigint
) FROM PUBLIC;

-- Who may audit and settle on the release before may on this one, also before sql/roles.sql was run again.
DO $$
DECLARE
    who text;
BEGIN
    FOR who IN
        SELECT DISTINCT a.grantee::regrole::text
        FROM pg_proc AS p
        CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE p.oid = 'messaging.audit_stream(text, text, text, text, double precision, integer)'::regprocedure
          AND a.privilege_type = 'EXECUTE'
          AND a.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION messaging.audit_stream('
            'text, text, text, bigint, text, text, text, bigint, text, double precision, integer, bigint), '
            'messaging.holds_stream(text, text, text, bigint) TO ' || who;
    END LOOP;
END
$$;
