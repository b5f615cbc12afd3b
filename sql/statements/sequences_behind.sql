-- sequences_behind: finds sequences that were left behind by a restore or a logical upgrade: the ids they give next are taken.
-- Parameters: none.
-- Returns: one row a sequence that is behind: its name, its last value, the highest id that is taken. One that this role may not
--   read is left out.
-- Loaded by: dispatcher/infra/postgres/migrations.py, dispatcher/ops/doctor/schema.py
-- Index: message_outbox_pkey, message_dlq_pkey, message_dlq_open_key, dispatcher_pkey: their last entries.
-- The ids are read with the snapshot, which is older than what a sequence says: one that is in use is never behind.
SELECT s.sequence, s.value, s.highest
FROM (
    SELECT
        h.sequence,
        h.highest,
        CASE
            WHEN has_sequence_privilege(h.sequence, 'SELECT, USAGE') THEN coalesce(pg_sequence_last_value(h.sequence::regclass), 0)
        END AS value
    FROM (
        VALUES
            (
                'messaging.message_outbox_id_seq',
                greatest(
                    (SELECT max(o.id) FROM ONLY messaging.message_outbox AS o),
                    -- Rows that were pruned: a new row with such an id would be taken for the dead event.
                    (SELECT max(d.outbox_id) FROM ONLY messaging.message_dlq AS d WHERE d.replayed_at IS NULL)
                )
            ),
            ('messaging.message_dlq_id_seq', (SELECT max(d.id) FROM ONLY messaging.message_dlq AS d)),
            ('messaging.dispatcher_id_seq', (SELECT max(r.id) FROM ONLY messaging.dispatcher AS r))
    ) AS h (sequence, highest)
    WHERE to_regclass(h.sequence) IS NOT NULL
      AND h.highest > 0
) AS s
WHERE s.value < s.highest
