-- enrol_again: enters this process into the registry again, under its old id; we hold its lock. A dispatcher that took us for dead
--   may have removed the row.
-- Parameters: id, name, host, pid, version.
-- Returns: nothing.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/registry.py
-- Index: dispatcher_pkey.
INSERT INTO messaging.dispatcher AS d (id, name, host, pid, version, seen_at)
VALUES (%(id)s, %(name)s, %(host)s, %(pid)s, %(version)s, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
