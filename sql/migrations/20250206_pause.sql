-- One switch for all dispatchers. Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and
-- later. Immutable once released: a later change is a later file.

-- At most one row; none: never paused. Each change raises the generation and is rung on the channel outbox_control.
CREATE TABLE IF NOT EXISTS messaging.pause (
    only_row   boolean     NOT NULL DEFAULT true,
    generation bigint      NOT NULL,
    paused     boolean     NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by text,
    reason     text,
    CONSTRAINT pause_pkey PRIMARY KEY (only_row),
    CONSTRAINT pause_only_row_check CHECK (only_row)
);

-- What each enabled dispatcher obeys: the generation it has read, and how many batches it still has in hand. It obeys a pause when
-- that is 0. Beside the registry, because a dispatcher without a direct connection is in none: seen_at says that it lives.
CREATE TABLE IF NOT EXISTS messaging.pause_acknowledgement (
    name       text        NOT NULL,
    version    text,
    generation bigint      NOT NULL,
    in_flight  integer     NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pause_acknowledgement_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50); -- written every few seconds by each: room for heap-only updates
