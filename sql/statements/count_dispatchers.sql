-- count_dispatchers: counts the dispatchers that may publish at the same time.
-- Parameters: none.
-- Returns: one row: their number.
-- Loaded by: dispatcher/upkeep/backpressure.py
-- Index: none; the registry has a few rows.
SELECT count(*) FROM ONLY messaging.dispatcher
