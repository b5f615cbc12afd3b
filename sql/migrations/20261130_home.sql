-- An outbox knows where it lives, so that a copy of it knows that it is one: a restored dump, a database made from it as a template,
-- a cluster that was upgraded or taken apart. A copy waits for a person's word (`dispatcher accept-copy`).
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

-- Nothing ever updates the row after messaging.settle_here(), so its xmin stays what it says: a row that was copied by its values (COPY,
-- INSERT, replication) has another one. No key: a row that is restored beside ours must show, not fail.
CREATE TABLE IF NOT EXISTS messaging.home (
    system_identifier text,
    database          oid         NOT NULL,
    marked            xid         NOT NULL,
    marked_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE messaging.home IS 'Where this outbox lives: one row. Where it says something else, the outbox is a copy.';
COMMENT ON COLUMN messaging.home.system_identifier IS 'Of the Postgres cluster; NULL: it may not be asked.';
COMMENT ON COLUMN messaging.home.database IS 'The database''s oid.';
COMMENT ON COLUMN messaging.home.marked IS 'The row''s own xmin, which a copy by value does not have.';
COMMENT ON COLUMN messaging.home.marked_at IS 'When it was made the home.';

-- A dump carries the row of an unlogged table along. Rows are claimed only while it is the one that was marked here.
ALTER TABLE messaging.unbroken
    ADD COLUMN IF NOT EXISTS marked xid;
ALTER TABLE messaging.unbroken ALTER COLUMN marked SET DEFAULT pg_current_xact_id()::xid;
UPDATE ONLY messaging.unbroken SET marked = pg_current_xact_id()::xid WHERE marked IS NULL;
COMMENT ON COLUMN messaging.unbroken.marked IS 'The row''s own xmin, which a copy by value does not have.';

ALTER TABLE messaging.stream_server
    ADD COLUMN IF NOT EXISTS addresses text[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS timeline  text;
COMMENT ON COLUMN messaging.stream_server.addresses IS 'Addresses of Redis that dispatchers were configured with, the last ones; empty: any is believed.';
COMMENT ON COLUMN messaging.stream_server.timeline IS 'The timeline of Postgres when it was noted last: another one after a promotion.';

-- NULL where the server does not tell: some managed ones do not.
CREATE OR REPLACE FUNCTION messaging.this_cluster() RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT c.system_identifier::text FROM pg_control_system() AS c);
EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION messaging.this_timeline() RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
EXCEPTION WHEN OTHERS THEN -- a standby, or a server without such a log
    RETURN NULL;
END
$$;

-- Makes this database the home. The update gives the row's xmin to it, also inside a savepoint.
CREATE OR REPLACE FUNCTION messaging.settle_here() RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cluster text := messaging.this_cluster();
BEGIN
    DELETE FROM ONLY messaging.home;
    INSERT INTO messaging.home (system_identifier, database, marked)
    SELECT cluster, d.oid, '0' FROM pg_database AS d WHERE d.datname = current_database();
    UPDATE ONLY messaging.home AS h SET marked = h.xmin;
END
$$;

-- NULL: this outbox is at home. Else why it is a copy. One that brought no event along harms nobody, and becomes an outbox of its own;
-- so does one without data, and, where the rows tell, one to which all its events came later. settle: write that down.
CREATE OR REPLACE FUNCTION messaging.why_copy(settle boolean) RETURNS text
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cluster text := messaging.this_cluster();
    here pg_database.oid%TYPE;
    made_in xid;
    homes bigint;
    by_value bigint;
    other_cluster text;
    other_database bigint;
BEGIN
    SELECT d.oid, d.xmin INTO here, made_in FROM pg_database AS d WHERE d.datname = current_database();
    IF settle THEN
        PERFORM FROM ONLY messaging.home AS h WHERE h.xmin = h.marked AND h.database = here;
        IF NOT FOUND THEN
            LOCK TABLE ONLY messaging.home IN SHARE ROW EXCLUSIVE MODE; -- several sessions at once: one settles
        END IF;
    END IF;
    SELECT
        count(*),
        count(*) FILTER (WHERE h.xmin <> h.marked),
        min(h.system_identifier) FILTER (WHERE h.system_identifier <> cluster),
        count(*) FILTER (WHERE h.database <> here)
    INTO homes, by_value, other_cluster, other_database
    FROM ONLY messaging.home AS h;
    IF homes = 1 AND by_value = 0 AND other_cluster IS NULL AND other_database = 0 THEN
        RETURN NULL;
    END IF;
    PERFORM FROM ONLY messaging.message_outbox;
    IF homes = 0 OR NOT FOUND THEN
        NULL;
    ELSIF by_value > 0 THEN
        RETURN 'its rows were restored from a dump, or came by replication';
    ELSIF other_cluster IS NOT NULL THEN
        RETURN format('it was made in another Postgres cluster (system identifier %s, here it is %s), as after pg_upgrade',
            other_cluster, cluster);
    ELSE
        PERFORM FROM ONLY messaging.message_outbox AS o WHERE age(o.xmin) > age(made_in) LIMIT 1;
        IF FOUND THEN
            RETURN 'its database was made from another one, as a template';
        END IF;
    END IF;
    IF settle THEN
        PERFORM messaging.settle_here();
    END IF;
    RETURN NULL;
END
$$;

-- A person's word: this is the outbox from now on. The stream is looked through before anything is claimed. What another
-- database says of Redis is forgotten: it is of another time and place.
CREATE OR REPLACE FUNCTION messaging.accept_copy() RETURNS text
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    why text := messaging.why_copy(true);
BEGIN
    DELETE FROM ONLY messaging.stream_server AS s
    WHERE EXISTS (
        SELECT
        FROM ONLY messaging.home AS h
        JOIN pg_database AS d ON d.datname = current_database()
        WHERE h.xmin <> h.marked
           OR (h.database <> d.oid AND h.system_identifier IS NOT DISTINCT FROM messaging.this_cluster())
    );
    UPDATE ONLY messaging.stream_server SET addresses = '{}', timeline = NULL;
    IF why IS NOT NULL THEN
        DELETE FROM ONLY messaging.unbroken;
        PERFORM messaging.settle_here();
    END IF;
    RETURN why;
END
$$;

DO $$
DECLARE
    who text;
BEGIN
    PERFORM FROM ONLY messaging.home;
    IF NOT FOUND THEN
        PERFORM messaging.settle_here();
    END IF;
    -- Who may mark the outbox as unbroken, as a dispatcher does, may do this too, also before sql/roles.sql was run again.
    FOR who IN
        SELECT DISTINCT a.grantee::regrole::text
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = 'messaging.unbroken'::regclass
          AND a.privilege_type = 'INSERT'
          AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.home, messaging.unbroken TO ' || who;
        EXECUTE 'GRANT DELETE ON messaging.stream_server TO ' || who;
        EXECUTE 'GRANT EXECUTE ON FUNCTION messaging.this_cluster(), messaging.this_timeline(), messaging.settle_here(), '
            'messaging.why_copy(boolean), messaging.accept_copy() TO ' || who;
    END LOOP;
END
$$;
