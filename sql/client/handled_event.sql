-- The events a consumer has handled, in its own database (not the outbox's), where its search_path finds it. Any number of times:
--     psql "$CONSUMER_DATABASE_URL" -f sql/client/handled_event.sql
CREATE TABLE IF NOT EXISTS handled_event (
    consumer text NOT NULL,
    event_id uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);
CREATE INDEX IF NOT EXISTS handled_event_handled_at_idx ON handled_event USING brin (handled_at);
