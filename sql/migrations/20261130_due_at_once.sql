-- A row that nobody scheduled is due at once, whatever the clock says. The default of next_run_at was the clock's reading: when the
-- clock was set back by a minute, rows from before it waited for a minute while newer ones passed them. A constant in the past has no
-- such fault, and the index of work (next_run_at, id) orders these rows by id. Not -infinity: before Postgres 17 it cannot be
-- subtracted from a time, and most languages cannot hold it.
-- Runs any number of times. Must not change once it is released.

ALTER TABLE ONLY messaging.message_outbox ALTER COLUMN next_run_at SET DEFAULT '1970-01-01 00:00:00+00';

COMMENT ON COLUMN messaging.message_outbox.next_run_at IS 'The event is due from this time on; 1970-01-01 UTC: nobody scheduled it, it is due at once; infinity parks it.';
COMMENT ON COLUMN messaging.message_outbox.id IS 'Number of the row. Rows that nobody scheduled are published in this order.';
COMMENT ON COLUMN messaging.message_outbox.occurred_at IS 'When the event happened, as its producer says; how long a row waits that nobody scheduled counts from it.';
