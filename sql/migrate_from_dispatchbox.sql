-- Moves the rows of Dispatchbox's table outbox_event into messaging.message_outbox (docs/how-to/migrate-from-dispatchbox.md):
--
--     psql "$DATABASE_URL" -f sql/migrate_from_dispatchbox.sql
--
-- Before: `dispatcher migrate`, and stop Dispatchbox: it cannot tell that an event it works on is moved, and both would send
-- it. Applications may go on inserting into outbox_event. Run it as the owner of both tables, not with psql -1: it commits
-- batch by batch, each row moved in one statement, so it may be interrupted and run again, any number of times.
-- What is due goes first, so that a running dispatcher sends it at once; then the rest in the order of id.
--
-- Another name of the table, another size of a batch:
--     PGOPTIONS="-c dispatcher.dispatchbox_table=app.outbox_event -c dispatcher.dispatchbox_batch=20000" psql ...

DO $$
DECLARE
    wanted text := coalesce(nullif(current_setting('dispatcher.dispatchbox_table', true), ''), 'outbox_event');
    batch integer := coalesce(nullif(current_setting('dispatcher.dispatchbox_batch', true), ''), '5000');
    old_table regclass := to_regclass(wanted);
    -- By ctid: a join would read the whole table for each batch when the planner has no statistics.
    move constant text := $move$
        WITH chosen AS MATERIALIZED (
            SELECT d.tableoid AS part, d.ctid AS place FROM %1$s AS d WHERE %2$s LIMIT $1 FOR UPDATE SKIP LOCKED
        ),
        moved AS (
            DELETE FROM %1$s AS o
            WHERE o.ctid = ANY (ARRAY(SELECT c.place FROM chosen AS c))
              -- Where it is partitioned or has children, several rows have the same place.
              AND EXISTS (SELECT FROM chosen AS c WHERE c.part = o.tableoid AND c.place = o.ctid)
            RETURNING o.id, o.aggregate_type, o.aggregate_id, o.event_type, o.payload, o.status, o.attempts,
                      o.next_run_at, o.created_at
        ),
        inserted AS (
            INSERT INTO messaging.message_outbox
                (event_id, event_type, aggregate_type, aggregate_id, payload, status, attempts, next_run_at, occurred_at,
                 sent_at, last_error)
            SELECT
                -- The same for the same row: one that comes back with a backup is not sent twice.
                encode(substr(sha256(convert_to(
                    concat_ws('/', 'dispatchbox', m.id, extract(epoch FROM m.created_at), m.aggregate_type,
                              m.aggregate_id, m.event_type), 'UTF8')), 1, 16), 'hex')::uuid,
                m.event_type, m.aggregate_type, m.aggregate_id, m.payload,
                CASE
                    WHEN m.status = 'done' THEN 'sent'
                    WHEN m.status = 'dead' THEN 'dead'
                    WHEN m.status = 'processing' AND m.attempts > 0 THEN 'retry'
                    WHEN m.status = 'processing' THEN 'pending'
                    ELSE m.status
                END,
                -- It counted a success as an attempt; here they are failures.
                least(greatest(m.attempts - (m.status = 'done')::integer, 0), 999999),
                greatest(m.next_run_at, '0001-01-01 00:00:00+00'),
                least(greatest(m.created_at, '0001-01-01 00:00:00+00'), '9999-12-30 00:00:00+00'),
                -- It did not keep when. Without a time the row would be looked at whenever dead ones are counted or listed.
                CASE WHEN m.status = 'done' THEN least(greatest(m.created_at, '0001-01-01 00:00:00+00'), statement_timestamp()) END,
                CASE WHEN m.status = 'dead' THEN 'dead in Dispatchbox, which kept no error' END
            FROM moved AS m
            ORDER BY m.next_run_at, m.id
            ON CONFLICT (event_id) DO NOTHING
            RETURNING id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, status,
                      attempts, last_error, occurred_at
        ),
        buried AS (
            INSERT INTO messaging.message_dlq
                (id, outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers, attempts,
                 last_error, occurred_at)
            SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 2048 - 9223372036854775807 + row_number() OVER (),
                   i.id, i.event_id, i.message_id, i.event_type, i.aggregate_type, i.aggregate_id, i.payload, i.headers,
                   i.attempts, i.last_error, i.occurred_at
            FROM inserted AS i
            WHERE i.status = 'dead'
        )
        SELECT count(*), max(m.next_run_at), max(m.id) FROM moved AS m
    $move$;
    due constant text := $due$d.status IN ('pending', 'retry') AND d.next_run_at >= $2 ORDER BY d.next_run_at$due$;
    every constant text :=
        $every$d.status IN ('pending', 'retry', 'processing', 'done', 'dead') AND d.id > $2 ORDER BY d.id$every$;
    pass text;
    after_time timestamptz;
    after_id bigint;
    moved bigint;
    total bigint := 0;
    told bigint := 0;
    last_time timestamptz;
    last_id bigint;
    remaining record;
BEGIN
    IF old_table IS NULL THEN
        RAISE EXCEPTION 'there is no table % here: connect to the database that Dispatchbox uses, or name its table: %',
            wanted, 'PGOPTIONS="-c dispatcher.dispatchbox_table=schema.table"';
    END IF;
    IF to_regclass('messaging.message_outbox') IS NULL THEN
        RAISE EXCEPTION 'there is no messaging.message_outbox here: run `dispatcher migrate` first';
    END IF;
    IF batch < 1 THEN
        RAISE EXCEPTION 'dispatcher.dispatchbox_batch must be 1 or more, this is %', batch;
    END IF;
    IF (SELECT c.relkind = 'v' FROM pg_class AS c WHERE c.oid = old_table) THEN
        RAISE NOTICE '% is a view, of sql/dispatchbox_view.sql: nothing to move', wanted;
        RETURN;
    END IF;
    -- The due ones again at the end: an application's slow transaction may have committed a lower id than the last one moved.
    FOREACH pass IN ARRAY ARRAY['due', 'every', 'due'] LOOP
        after_time := '-infinity';
        after_id := -1;
        LOOP
            IF pass = 'due' THEN
                EXECUTE format(move, old_table, due) INTO moved, last_time, last_id USING batch, after_time;
            ELSE
                EXECUTE format(move, old_table, every) INTO moved, last_time, last_id USING batch, after_id;
            END IF;
            COMMIT;
            after_time := coalesce(last_time, after_time);
            after_id := coalesce(last_id, after_id);
            total := total + moved;
            IF total >= told + 100000 THEN
                told := total;
                RAISE NOTICE 'rows moved: %', total;
            END IF;
            EXIT WHEN moved < batch;
        END LOOP;
    END LOOP;
    RAISE NOTICE 'rows moved: %, all of them', total;
    FOR remaining IN EXECUTE format('SELECT status, count(*) AS rows FROM %s GROUP BY status', old_table) LOOP
        RAISE WARNING 'left with the status %: %; locked, inserted meanwhile, or no status of Dispatchbox; run it again',
            remaining.status, remaining.rows;
    END LOOP;
END
$$;
