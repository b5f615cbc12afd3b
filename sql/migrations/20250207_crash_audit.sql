-- Whether Postgres may have forgotten. Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14
-- and later. Immutable once released: a later change is a later file.

-- The newest stream entry a dispatcher knew, noted about once a second; one row. What Postgres forgets in a crash is the end of
-- its log. So a claim that is forgotten was made after the newest note that is not, and its entries come after the one noted.
CREATE TABLE IF NOT EXISTS messaging.newest_entry (
    one       boolean NOT NULL DEFAULT true,
    stream_id text    NOT NULL,
    replid    text    NOT NULL, -- the data set of Redis it is in; '' where Redis does not tell
    CONSTRAINT newest_entry_pkey PRIMARY KEY (one),
    CONSTRAINT newest_entry_one_check CHECK (one)
);

-- One row while nothing can have been forgotten, and only then rows are claimed. Unlogged: a crash, a failover to a standby and a
-- restore empty it, a clean restart does not. A dispatcher that finds it empty looks the end of the stream through first.
CREATE UNLOGGED TABLE IF NOT EXISTS messaging.unbroken (
    one  boolean NOT NULL DEFAULT true,
    CONSTRAINT unbroken_pkey PRIMARY KEY (one),
    CONSTRAINT unbroken_one_check CHECK (one)
);

-- Once: run again after a crash, this file must not say that nothing was forgotten.
WITH first AS (
    INSERT INTO messaging.newest_entry (stream_id, replid) VALUES ('0-0', '') ON CONFLICT DO NOTHING RETURNING one
)
INSERT INTO messaging.unbroken (one) SELECT f.one FROM first AS f ON CONFLICT DO NOTHING;
