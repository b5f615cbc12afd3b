-- Who: upkeep/backpressure.py, every 10 s, every second while a group lags by half of MAXLEN. Index: none, a handful of rows.
-- Answer: how many dispatchers may publish at once.
SELECT count(*) FROM messaging.dispatcher
