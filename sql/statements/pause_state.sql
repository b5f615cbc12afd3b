-- pause_state: reads the pause switch.
-- Parameters: none.
-- Returns: generation, whether claims are stopped, since when, by whom, why. No row: never paused.
-- Loaded by: dispatcher/ops/pause.py, dispatcher/upkeep/pause.py
-- Index: none; one row.
SELECT p.generation, p.paused, p.changed_at, p.changed_by, p.reason
FROM ONLY messaging.pause AS p
