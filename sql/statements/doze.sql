-- doze: tries to take the doorbell's key, and asks when the next row is due, before a dispatcher sleeps.
-- Parameters: slots (only slots below this number), proof_events (whether only events of `dispatcher prove`, or all others).
-- Parameters with an order: lows, highs (ranges of slots that we own; slots does not matter then).
-- Returns: one row: who has the key (below); seconds until the first claimable row is due (NULL: there is none).
-- Loaded by: dispatcher/stages/doorbell/wake.py
-- Index: message_outbox_due_idx, its head.
-- The second column is the first one of due_check.sql, whose lines marked --owned belong to load("doze", owned=True), with an order.
-- asleep: we have it, and writers ring from now on; the second column is older than that, so ask once more. writers: a writer that
-- does not ring is committing; ask again shortly. peer: another dispatcher sleeps and is the one to be rung.
SELECT
    CASE
        WHEN pg_try_advisory_lock(1869968482, 1) THEN 'asleep'
        WHEN pg_try_advisory_lock_shared(1869968482, 1) AND pg_advisory_unlock_shared(1869968482, 1) THEN 'writers'
        ELSE 'peer'
    END,
--like: due_check, from '    (', before '    ),'
    )
