-- Many streams: a row says which key holds its entry, a settle is fenced for several streams at once, and the layout (which streams
-- there are, over how many shards, by which routes) stands in Postgres, so that no two dispatchers publish by different ones.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

ALTER TABLE messaging.message_outbox
    ADD COLUMN IF NOT EXISTS stream text;
COMMENT ON COLUMN messaging.message_outbox.stream IS 'Key that holds the entry, once sent; NULL: the only one, DISPATCH_STREAM_NAME.';

CREATE TABLE IF NOT EXISTS messaging.layout (
    one         boolean     NOT NULL DEFAULT true CONSTRAINT layout_pkey PRIMARY KEY CONSTRAINT layout_one_check CHECK (one),
    fingerprint text        NOT NULL,
    spec        jsonb       NOT NULL,
    keys        text[]      NOT NULL,
    former      text[]      NOT NULL DEFAULT '{}',
    generation  bigint      NOT NULL DEFAULT 1,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by  text
);
COMMENT ON TABLE messaging.layout IS 'Which streams events go to: one row. No row: one stream, and its name is not kept.';
COMMENT ON COLUMN messaging.layout.one IS 'Always true, so that there is one row.';
COMMENT ON COLUMN messaging.layout.fingerprint IS 'Names the layout; empty: one stream, as releases before layouts know it.';
COMMENT ON COLUMN messaging.layout.spec IS 'Stream, shards and routes.';
COMMENT ON COLUMN messaging.layout.keys IS 'All keys that events may go to.';
COMMENT ON COLUMN messaging.layout.former IS 'Keys of layouts before, which may hold entries that consumers have not read.';
COMMENT ON COLUMN messaging.layout.generation IS 'Number of times that it was set.';
COMMENT ON COLUMN messaging.layout.changed_at IS 'When it was set.';
COMMENT ON COLUMN messaging.layout.changed_by IS 'Who set it.';

-- Every claim asks for this row already; now it says for which layout. Of another layout than the plain one `marked` is empty, so
-- that a dispatcher of a release before layouts finds nothing that it may claim.
ALTER TABLE messaging.unbroken
    ADD COLUMN IF NOT EXISTS layout text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS sealed xid;
COMMENT ON COLUMN messaging.unbroken.layout IS 'The layout by which may be claimed: messaging.layout.fingerprint.';
COMMENT ON COLUMN messaging.unbroken.sealed IS 'The row''s own xmin, in place of marked, where a layout stands.';

-- A release before layouts would insert the row by itself after a crash. It is told why not; at its start it is told the same.
CREATE OR REPLACE FUNCTION messaging.refuse_other_layout() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.layout <> coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), '') THEN
        RAISE EXCEPTION 'the events of this outbox go to other streams than this dispatcher knows: give it the settings that '
            '`dispatcher layout` names, and a release that has this command' USING ERRCODE = 'DS002';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER refuse_other_layout BEFORE INSERT ON messaging.unbroken
    FOR EACH ROW EXECUTE FUNCTION messaging.refuse_other_layout();

-- As messaging.holds_stream(text, text, text, bigint), for several streams: one element each.
CREATE OR REPLACE FUNCTION messaging.holds_streams(
    of_streams text[], of_run_ids text[], of_replids text[], of_lives bigint[]
) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held bigint;
    low timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1869968482, 4);
    SELECT count(*), max(s.mark_at) INTO held, low
    FROM unnest(of_streams, of_run_ids, of_replids, of_lives) AS w (stream, run_id, replid, life)
    JOIN ONLY messaging.stream_server AS s
        ON s.stream = w.stream AND s.run_id = w.run_id AND s.replid = w.replid AND s.life = w.life;
    IF held < cardinality(of_streams) THEN
        RAISE EXCEPTION 'another run of Redis holds the stream now' USING ERRCODE = 'DS001';
    END IF;
    IF low > clock_timestamp() THEN
        UPDATE ONLY messaging.stream_server AS s
        SET mark_at = least(s.mark_at, clock_timestamp())
        WHERE s.stream = ANY (of_streams);
    END IF;
    RETURN true;
END
$$;

-- As the function of the same name with one argument less, for one of several streams: of_unnamed says whether rows that name no
-- stream are in it.
CREATE OR REPLACE FUNCTION messaging.audit_stream(
    of_stream text, of_run_id text, of_replid text, of_life bigint, of_last_id text, of_below text, of_newest_id text,
    of_added bigint, why text, window_s double precision, at_most integer, so_far bigint, of_unnamed boolean,
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
        SET status = 'pending', picked_at = NULL, picked_by = NULL, claim_id = NULL, sent_at = NULL, stream_id = NULL, stream = NULL
        WHERE o.ctid = ANY (ARRAY(
            SELECT d.ctid
            FROM ONLY messaging.message_outbox AS d
            WHERE d.settled
              AND d.status = 'sent'
              AND d.sent_at >= from_at
              AND CASE WHEN d.stream IS NULL THEN of_unnamed ELSE d.stream = of_stream END
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

-- Sets the layout, or says why not (NULL: it is set). of_fingerprint '': one stream. Without `first` everything has to be paused, and
-- no row may be in hand: what was claimed by the layout before would still be published by it. With `first` nothing may have been
-- published yet. The audit's lock keeps a first publisher and the first layout apart. The commit is flushed to disk, whatever the
-- session's setting: after a crash of Postgres an older layout must not be back.
CREATE OR REPLACE FUNCTION messaging.set_layout(of_fingerprint text, of_spec jsonb, of_keys text[], of_former text[], by text, first boolean)
RETURNS text
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was text;
    unbroken_before boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'local', true);
    PERFORM pg_advisory_xact_lock(1869968482, 4);
    LOCK TABLE ONLY messaging.layout IN SHARE ROW EXCLUSIVE MODE;
    was := coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), '');
    IF was = of_fingerprint THEN
        RETURN NULL;
    END IF;
    IF first THEN
        PERFORM FROM ONLY messaging.layout;
        IF FOUND THEN
            RETURN 'another layout stands';
        END IF;
        PERFORM FROM ONLY messaging.stream_server;
        IF FOUND THEN
            RETURN 'events were published by another layout';
        END IF;
        PERFORM FROM ONLY messaging.message_outbox AS o WHERE o.settled LIMIT 1;
        IF FOUND THEN
            RETURN 'there are settled events';
        END IF;
    ELSE
        PERFORM FROM ONLY messaging.pause AS p WHERE p.paused FOR UPDATE; -- nobody resumes before this is done
        IF NOT FOUND THEN
            RETURN 'the dispatchers are not paused';
        END IF;
        PERFORM
        FROM ONLY messaging.message_outbox AS o
        WHERE NOT o.settled
          AND o.status = 'picked'
          AND o.event_type <> 'dispatcher.prove'
          AND o.stream_id ~ '^[0-9]+-[0-9]+$' -- of a row for a handler it says something else
        LIMIT 1;
        IF FOUND THEN
            RETURN 'rows are in hand';
        END IF;
    END IF;
    SELECT EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked)) INTO unbroken_before;
    INSERT INTO messaging.layout AS l (fingerprint, spec, keys, former, changed_by)
    VALUES (of_fingerprint, of_spec, of_keys, of_former, by)
    ON CONFLICT (one) DO UPDATE
    SET fingerprint = excluded.fingerprint,
        spec = excluded.spec,
        keys = excluded.keys,
        former = excluded.former,
        generation = l.generation + 1,
        changed_at = excluded.changed_at,
        changed_by = excluded.changed_by;
    -- A key that is given up may be deleted, and taken again later: that must not look like a loss.
    DELETE FROM ONLY messaging.stream_server AS s WHERE s.stream <> ALL (of_keys);
    DELETE FROM ONLY messaging.unbroken;
    IF unbroken_before THEN
        INSERT INTO messaging.unbroken (layout, marked, sealed)
        SELECT
            of_fingerprint,
            CASE WHEN of_fingerprint = '' THEN pg_current_xact_id()::xid END,
            CASE WHEN of_fingerprint <> '' THEN pg_current_xact_id()::xid END;
    END IF;
    PERFORM pg_notify('outbox_control', '');
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION messaging.audit_stream(
    text, text, text, bigint, text, text, text, bigint, text, double precision, integer, bigint, boolean
) FROM PUBLIC;
REVOKE ALL ON FUNCTION messaging.set_layout(text, jsonb, text[], text[], text, boolean) FROM PUBLIC;

-- Who may mark the outbox as unbroken, as a dispatcher does, may do this too, also before sql/roles.sql was run again.
DO $$
DECLARE
    who text;
BEGIN
    FOR who IN
        SELECT DISTINCT a.grantee::regrole::text
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = 'messaging.unbroken'::regclass
          AND a.privilege_type = 'INSERT'
          AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE 'GRANT UPDATE (stream) ON messaging.message_outbox TO ' || who;
        EXECUTE 'GRANT SELECT, INSERT, UPDATE ON messaging.layout TO ' || who;
        EXECUTE 'GRANT EXECUTE ON FUNCTION messaging.audit_stream('
            'text, text, text, bigint, text, text, text, bigint, text, double precision, integer, bigint, boolean), '
            'messaging.holds_streams(text[], text[], text[], bigint[]), '
            'messaging.set_layout(text, jsonb, text[], text[], text, boolean) TO ' || who;
    END LOOP;
    -- Who may read the pause reads the layout with it.
    FOR who IN
        SELECT DISTINCT a.grantee::regrole::text
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = 'messaging.pause'::regclass
          AND a.privilege_type = 'SELECT'
          AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE 'GRANT SELECT ON messaging.layout TO ' || who;
    END LOOP;
END
$$;
