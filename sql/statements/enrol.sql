-- Who: upkeep/registry.py, when the control session opens. Index: dispatcher_pkey.
-- Writes this process into the registry, under its old id when it had one (%(id)s not NULL). Answer: the id.
INSERT INTO messaging.dispatcher AS d (id, name, host, pid, version, seen_at)
VALUES (
    coalesce(%(id)s::bigint, nextval(pg_get_serial_sequence('messaging.dispatcher', 'id'))),
    %(name)s, %(host)s, %(pid)s, %(version)s, clock_timestamp()
)
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
RETURNING d.id
