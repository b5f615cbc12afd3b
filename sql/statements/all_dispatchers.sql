-- all_dispatchers: lists the dispatchers that may have published before a crash of Postgres.
-- Parameters: none.
-- Returns: name of each, alive or not.
-- Loaded by: dispatcher/upkeep/postgres_crash.py
-- Index: none; the registry has a few rows.
SELECT d.name FROM ONLY messaging.dispatcher AS d
