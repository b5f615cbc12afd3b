-- The events a consumer has handled, in its own database (not the outbox's), where its search_path finds it. Any number of times, and
-- by many at once: where the table is there, nothing is done, no lock is taken and no right is needed.
--     psql "$CONSUMER_DATABASE_URL" -f sql/client/handled_event.sql
DO $$
BEGIN
    IF to_regclass('handled_event') IS NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('handled_event', 0));  -- two at once would collide in the catalogue
        CREATE TABLE IF NOT EXISTS handled_event (
            consumer text NOT NULL,
            event_id uuid NOT NULL,
            handled_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (consumer, event_id)
        );
        IF to_regclass('handled_event_handled_at_idx') IS NULL THEN
            CREATE INDEX handled_event_handled_at_idx ON handled_event USING brin (handled_at);
        END IF;
    END IF;
END
$$;
