-- Who: upkeep/postgres_crash.py, before it looks. Index: none, the registry is a handful of rows.
-- Answer: the names of all dispatchers that may have published, alive or not.
SELECT d.name FROM messaging.dispatcher AS d
