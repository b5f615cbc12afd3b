-- Who: upkeep/registry.py, when the control session opens for the first time. Index: dispatcher_pkey.
-- Writes this process into the registry and locks its row's lock before anybody can see the row. Waits for the disk: after a crash
-- of Postgres the connections of all who are in the registry are ended, before anybody publishes. Answer: the id first.
WITH us AS (
    INSERT INTO messaging.dispatcher AS d (name, host, pid, version, seen_at)
    VALUES (%(name)s, %(host)s, %(pid)s, %(version)s, clock_timestamp())
    RETURNING d.id
)
SELECT us.id, pg_try_advisory_lock(1869968483, us.id::integer), set_config('synchronous_commit', 'local', true) FROM us
