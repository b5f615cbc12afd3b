-- Who: upkeep/registry.py, when the control session opens. Index: dispatcher_pkey.
-- Writes this process into the registry, under its old id when it had one (%(id)s not NULL). Answer: the id.
-- Two inserts, because asking the sequence by name needs a right of its own, and an identity column's default does not.
WITH again AS (
    INSERT INTO messaging.dispatcher AS d (id, name, host, pid, version, seen_at)
    SELECT %(id)s::bigint, %(name)s, %(host)s, %(pid)s, %(version)s, clock_timestamp()
    WHERE %(id)s::bigint IS NOT NULL
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
    RETURNING d.id
),
first AS (
    INSERT INTO messaging.dispatcher AS d (name, host, pid, version, seen_at)
    SELECT %(name)s, %(host)s, %(pid)s, %(version)s, clock_timestamp()
    WHERE %(id)s::bigint IS NULL
    RETURNING d.id
)
SELECT id FROM again
UNION ALL
SELECT id FROM first
