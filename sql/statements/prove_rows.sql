-- prove_rows: counts the canary events of `dispatcher prove` by status.
-- Parameters: event_ids, event_type (of canary events), within_s (seconds; they occurred since then).
-- Returns: status and number of rows.
-- Loaded by: dispatcher/prove/run.py
-- Index: message_outbox_time_idx, all that occurred in that time.
SELECT o.status::text, count(*)
FROM ONLY messaging.message_outbox AS o
WHERE o.occurred_at > (SELECT clock_timestamp() - make_interval(secs => %(within_s)s))
  AND o.event_type = %(event_type)s
  AND o.event_id = ANY (%(event_ids)s::uuid[])
GROUP BY o.status
