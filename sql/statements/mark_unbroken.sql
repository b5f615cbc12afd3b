-- Who: upkeep/postgres_crash.py, when the stream was looked through. Index: unbroken_pkey.
-- From here on rows are claimed again; dispatchers that sleep are rung. Answer: one row.
WITH marked AS (
    INSERT INTO messaging.unbroken DEFAULT VALUES ON CONFLICT DO NOTHING
)
SELECT pg_notify('outbox_backlog', '')
