-- A first layout reads a bounded number of rows, also of a large backlog of which nothing is settled.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

-- Sets the layout, or says why not (NULL: it is set). of_fingerprint '': one stream. Without `first` everything has to be paused, and
-- no row may be in hand: what was claimed by the layout before would still be published by it. With `first` nothing may have been
-- published yet. The audit's lock keeps a first publisher and the first layout apart. The commit is flushed to disk, whatever the
-- session's setting: after a crash of Postgres an older layout must not be back.
CREATE OR REPLACE FUNCTION messaging.set_layout(of_fingerprint text, of_spec jsonb, of_keys text[], of_former text[], by text, first boolean)
RETURNS text
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_sort = off -- the oldest rows are read by the primary key: never the whole table, to sort it
AS $$
DECLARE
    was text;
    keys_before text[];
    unbroken_before boolean;
    looked_at bigint;
    settled bigint;
    in_streams bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'local', true);
    PERFORM pg_advisory_xact_lock(1869968482, 4);
    LOCK TABLE ONLY messaging.layout IN SHARE ROW EXCLUSIVE MODE;
    was := coalesce((SELECT l.fingerprint FROM ONLY messaging.layout AS l), '');
    IF was = of_fingerprint THEN
        RETURN NULL;
    END IF;
    keys_before := (SELECT l.keys FROM ONLY messaging.layout AS l); -- NULL: none was set
    SELECT EXISTS (SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = coalesce(u.sealed, u.marked)) INTO unbroken_before;
    IF first THEN
        IF keys_before IS NOT NULL THEN
            RETURN 'another layout stands';
        END IF;
        PERFORM FROM ONLY messaging.stream_server;
        IF FOUND THEN
            RETURN 'events were published by another layout';
        END IF;
        -- Rows of handlers, and dead ones, have no stream_id: they were in no stream. Of very many rows not all are read, for all that
        -- settle wait for our lock. The oldest are, which are published first: while all of these wait, nothing was published. If some
        -- of these are settled, by handlers, the newest tell whether events go to a stream by now.
        SELECT
            count(*),
            count(*) FILTER (WHERE e.settled AND e.ours),
            count(*) FILTER (WHERE e.status = 'sent' AND e.stream_id IS NOT NULL AND e.ours)
        INTO looked_at, settled, in_streams
        FROM (
            SELECT o.settled, o.status, o.stream_id,
                   o.event_type <> 'dispatcher.prove' AS ours -- those went to a stream of `dispatcher prove`
            FROM ONLY messaging.message_outbox AS o
            ORDER BY o.id
            LIMIT 100000
        ) AS e;
        IF in_streams = 0 AND looked_at = 100000 AND settled > 0 THEN
            SELECT count(*) FILTER (WHERE e.status = 'sent' AND e.stream_id IS NOT NULL AND e.event_type <> 'dispatcher.prove')
            INTO in_streams
            FROM (
                SELECT o.status, o.stream_id, o.event_type FROM ONLY messaging.message_outbox AS o ORDER BY o.id DESC LIMIT 100000
            ) AS e;
        END IF;
        IF in_streams > 0 THEN
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
        -- The audit after a crash searches the keys of its own layout only: settles that Postgres forgot would not be found in a key
        -- that is given up, and their events would go out again.
        IF NOT unbroken_before THEN
            PERFORM
            FROM (
                SELECT s.stream FROM ONLY messaging.stream_server AS s
                UNION ALL
                SELECT unnest(keys_before)
            ) AS k (stream)
            WHERE k.stream <> ALL (of_keys);
            IF FOUND THEN
                RETURN 'Postgres may have forgotten claims';
            END IF;
        END IF;
    END IF;
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
    -- A key that is given up may be deleted, and taken again later: that must not look like a loss. A dispatcher that just connected may
    -- note such a key after this, so what is noted of a key that was in no layout before is stale.
    DELETE FROM ONLY messaging.stream_server AS s WHERE s.stream <> ALL (of_keys) OR s.stream <> ALL (keys_before);
    -- Without an order nobody takes over the slots of a dispatcher that died: it would stay in the registry for good.
    IF coalesce(of_spec ->> 'order', 'none') = 'none' THEN
        PERFORM FROM ONLY messaging.slot_owner AS s ORDER BY s.slot FOR UPDATE; -- so that two never wait for each other
        UPDATE ONLY messaging.slot_owner AS s
        SET owner = NULL, revoked_from = NULL, fenced = false, epoch = s.epoch + 1, changed_at = clock_timestamp()
        WHERE s.owner IS NOT NULL OR s.revoked_from IS NOT NULL;
    END IF;
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
