-- prune_dlq: deletes the oldest dead-letter copies, replayed or not, and the oldest history of events, as messaging.prune_message_dlq
--   does.
-- Parameters: batch (of each), older_than_s (seconds since they died), ours (our clock), now (NULL: the server's clock).
-- Returns: one row: copies deleted, rows of history deleted.
-- Loaded by: dispatcher/ops/prune.py, dispatcher/ops/trial_list.py, dispatcher/upkeep/retention.py
-- Index: message_dlq_died_at_idx and message_history_at_idx, their heads.
-- By the earlier of two clocks, as prune_outbox.
-- Does nothing while another prune has the lock. A copy that is locked is left for the next time.
WITH turn AS MATERIALIZED (
    SELECT
        pg_try_advisory_xact_lock(1869968482, 3) AS ours,
        least(coalesce(%(now)s::timestamptz, clock_timestamp()), %(ours)s) - make_interval(secs => %(older_than_s)s) AS cutoff
),
gone AS (
    DELETE FROM ONLY messaging.message_dlq AS d
    WHERE d.ctid = ANY (ARRAY(
        SELECT c.ctid
        FROM ONLY messaging.message_dlq AS c
        WHERE (SELECT t.ours FROM turn AS t)
          AND c.died_at < (SELECT t.cutoff FROM turn AS t)
        ORDER BY c.died_at
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
),
forgotten AS (
    DELETE FROM ONLY messaging.message_history AS h
    WHERE h.ctid = ANY (ARRAY(
        SELECT c.ctid
        FROM ONLY messaging.message_history AS c
        WHERE (SELECT t.ours FROM turn AS t)
          AND c.at < (SELECT t.cutoff FROM turn AS t)
        ORDER BY c.at
        LIMIT %(batch)s
    ))
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM forgotten)
