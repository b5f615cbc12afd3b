-- To see whether an outbox is a copy, one row of it is read and not all.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

-- NULL: this outbox is at home. Else why it is a copy. One that brought no event along harms nobody, and becomes an outbox of its own;
-- so does one without data, and, where the rows tell, one to which all its events came later. What pg_upgrade brought along is at home:
-- nothing else carries rows with their xmin into a newer version. settle: write that down.
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
    older boolean;
BEGIN
    SELECT d.oid, d.xmin INTO here, made_in FROM pg_database AS d WHERE d.datname = current_database();
    IF settle THEN
        PERFORM FROM ONLY messaging.home AS h
        WHERE h.xmin = h.marked AND h.database = here AND (h.system_identifier = cluster) IS NOT FALSE;
        IF NOT FOUND THEN
            LOCK TABLE ONLY messaging.home IN SHARE ROW EXCLUSIVE MODE; -- several sessions at once: one settles
        END IF;
    END IF;
    SELECT
        count(*),
        count(*) FILTER (WHERE h.xmin <> h.marked),
        min(h.system_identifier) FILTER (WHERE h.system_identifier <> cluster),
        count(*) FILTER (WHERE h.database <> here),
        coalesce(bool_and(h.postgres < current_setting('server_version_num')::integer / 10000), false)
    INTO homes, by_value, other_cluster, other_database, older
    FROM ONLY messaging.home AS h;
    IF homes = 1 AND by_value = 0 AND other_cluster IS NULL AND other_database = 0 THEN
        RETURN NULL;
    END IF;
    PERFORM FROM ONLY messaging.message_outbox LIMIT 1; -- or it reads every row, and keeps them in memory
    IF homes = 0 OR NOT FOUND THEN
        NULL;
    ELSIF homes = 1 AND by_value = 0 AND other_database = 0 AND older THEN
        IF settle THEN
            DELETE FROM ONLY messaging.unbroken; -- the stream is looked through before anything is claimed
        END IF;
    ELSIF by_value > 0 THEN
        RETURN 'its rows were restored from a dump, or came by replication';
    ELSIF other_cluster IS NOT NULL THEN
        RETURN format('it was made in another Postgres cluster (system identifier %s, here it is %s), as after pg_upgrade or pg_createsubscriber',
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
