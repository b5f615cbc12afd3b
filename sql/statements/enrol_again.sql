-- Who: upkeep/registry.py, when the control session came back, with the lock in hand. Index: dispatcher_pkey.
-- Writes this process into the registry under its old id: a successor may have removed the row meanwhile.
INSERT INTO messaging.dispatcher AS d (id, name, host, pid, version, seen_at)
VALUES (%(id)s, %(name)s, %(host)s, %(pid)s, %(version)s, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
