-- sequences_behind: finds sequences that were left behind by a restore or a logical upgrade: the ids they give are taken.
-- Parameters: none.
-- Returns: one row a sequence that is behind: its name, its last value, the highest id that is taken, whether the next one is. One
--   that this role may not read is left out.
-- Loaded by: dispatcher/infra/postgres/migrations.py, dispatcher/ops/doctor/schema.py
-- Index: message_outbox_pkey, message_dlq_pkey, message_dlq_open_key, dispatcher_pkey: their last entries.
-- The ids are read with the snapshot, which is older than what a sequence says: one that is in use is never behind.
WITH known AS (
    SELECT
        n.name,
        CASE
            WHEN has_sequence_privilege(n.name, 'SELECT, USAGE') THEN coalesce(pg_sequence_last_value(n.name::regclass), 0)
        END AS value
    FROM (
        VALUES ('messaging.message_outbox_id_seq'), ('messaging.message_dlq_id_seq'), ('messaging.dispatcher_id_seq')
    ) AS n (name)
    WHERE to_regclass(n.name) IS NOT NULL
)
SELECT k.name, k.value, h.highest, h.taken
FROM known AS k
JOIN LATERAL (
    SELECT
        greatest(
            (SELECT max(o.id) FROM ONLY messaging.message_outbox AS o),
            -- Rows that were pruned: a new row with such an id would be taken for the dead event.
            (SELECT max(d.outbox_id) FROM ONLY messaging.message_dlq AS d WHERE d.replayed_at IS NULL)
        ) AS highest,
        EXISTS (SELECT FROM ONLY messaging.message_outbox AS o WHERE o.id = k.value + 1) AS taken
    WHERE k.name = 'messaging.message_outbox_id_seq'
    UNION ALL
    SELECT
        (SELECT max(d.id) FROM ONLY messaging.message_dlq AS d),
        EXISTS (SELECT FROM ONLY messaging.message_dlq AS d WHERE d.id = k.value + 1)
    WHERE k.name = 'messaging.message_dlq_id_seq'
    UNION ALL
    SELECT
        (SELECT max(r.id) FROM ONLY messaging.dispatcher AS r),
        EXISTS (SELECT FROM ONLY messaging.dispatcher AS r WHERE r.id = k.value + 1)
    WHERE k.name = 'messaging.dispatcher_id_seq'
) AS h ON h.highest > greatest(k.value, 0)
ORDER BY k.name
