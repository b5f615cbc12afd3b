-- Who: upkeep/retention.py, beside each prune_outbox. Index: message_dlq_died_at_idx, its head.
-- Deletes the oldest dead-letter copies, replayed or not, that died longer than %(older_than_s)s ago, as messaging.prune_message_dlq
-- does. Whoever has the procedures' lock; a copy that somebody holds is left for the next time.
-- Answer, always one row: copies deleted.
WITH turn AS MATERIALIZED (
    SELECT
        pg_try_advisory_xact_lock(1869968482, 3) AS ours,
        coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(older_than_s)s) AS cutoff
),
gone AS (
    DELETE FROM messaging.message_dlq AS d
    WHERE d.ctid = ANY (ARRAY(
        SELECT c.ctid
        FROM messaging.message_dlq AS c
        WHERE (SELECT t.ours FROM turn AS t)
          AND c.died_at < (SELECT t.cutoff FROM turn AS t)
        ORDER BY c.died_at
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM gone
