-- Order within an aggregate (DISPATCH_ORDER=aggregate): whether the entry that follows a dead event was told of it. Without order nothing
-- reads or writes this column.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

ALTER TABLE messaging.message_dlq
    ADD COLUMN IF NOT EXISTS followed_at timestamptz;
COMMENT ON COLUMN messaging.message_dlq.followed_at IS 'With DISPATCH_ORDER=aggregate: when the next entry of its aggregate went out, with the field after_dead.';
