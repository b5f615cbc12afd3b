-- enrol: enters this process into the registry, and takes its lock before anybody can see the row.
-- Parameters: name, host, pid, version.
-- Returns: one row: our id first.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/registry.py
-- Index: dispatcher_pkey.
-- The commit is flushed to disk: after a crash of Postgres the connections of all that are registered are ended before anybody
-- publishes.
-- An older row of our name is of an enrolment whose answer was lost. It owns nothing, and its lock is free: we would take ourselves for
-- dead and end our own sessions.
WITH lost AS (
    DELETE FROM ONLY messaging.dispatcher AS d
    WHERE d.name = %(name)s
),
us AS (
    INSERT INTO messaging.dispatcher AS d (name, host, pid, version, seen_at)
    VALUES (%(name)s, %(host)s, %(pid)s, %(version)s, clock_timestamp())
    RETURNING d.id
)
SELECT us.id, pg_try_advisory_lock(1869968483, us.id::integer), set_config('synchronous_commit', 'local', true) FROM us
