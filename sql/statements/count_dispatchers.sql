-- Who: upkeep/backpressure.py, every second. Index: none, the registry is a handful of rows.
-- Answer: how many dispatchers may publish at once.
SELECT count(*) FROM messaging.dispatcher
