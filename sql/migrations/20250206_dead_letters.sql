-- Finds dead rows without reading the table. Runs under plain `psql -f` and under `dispatcher migrate`, any number of times.
-- Postgres 14 and later. Immutable once released: a later change is a later file.
--
-- Writers wait while it is built. On a table of many millions of rows build it beforehand, under the same name:
--     CREATE INDEX CONCURRENTLY message_outbox_dead_idx ON messaging.message_outbox (id) WHERE settled AND sent_at IS NULL;

-- What is settled and was never sent is dead. A predicate on status would end heap-only claims; a claim changes neither of these
-- two columns. A row that was sent, replayed by a plain UPDATE and died then is not in here: its copy in the dead-letter queue is.
CREATE INDEX IF NOT EXISTS message_outbox_dead_idx
    ON messaging.message_outbox (id) WHERE settled AND sent_at IS NULL;
