-- ring_owners: wakes the owners of slots that have due rows, other than us: writers ring one dispatcher, and it may be the wrong one.
-- Parameters: self (our id).
-- Returns: one row an owner that was rung. No row: what is due is ours, or in nobody's slot.
-- Loaded by: dispatcher/stages/doorbell/owners.py
-- Index: message_outbox_due_idx, its head; message_outbox_pkey, its end: beside a backlog the rows that rang are there.
SELECT pg_notify('outbox_owner_' || o.owner, '')
FROM (
    SELECT DISTINCT s.owner
    FROM ONLY messaging.slot_owner AS s
    WHERE s.owner <> %(self)s::bigint
      AND s.slot IN (
          SELECT hashtextextended(f.aggregate_id, 0) & 255
          FROM (
              SELECT d.aggregate_id
              FROM ONLY messaging.message_outbox AS d
              WHERE NOT d.settled
                AND d.status <> 'picked'
                AND d.next_run_at <= (SELECT clock_timestamp())
              ORDER BY d.next_run_at, d.id
              LIMIT 64
          ) AS f
          UNION
          SELECT hashtextextended(n.aggregate_id, 0) & 255
          FROM (
              SELECT d.aggregate_id, d.settled, d.status, d.next_run_at
              FROM ONLY messaging.message_outbox AS d
              ORDER BY d.id DESC
              LIMIT 64
          ) AS n
          WHERE NOT n.settled
            AND n.status <> 'picked'
            AND n.next_run_at <= (SELECT clock_timestamp())
      )
) AS o
