-- Who: upkeep/pause.py, every second and when it is rung; ops/pause.py and overview.py for the commands. Index: none, one row.
-- Answer: the generation, whether claiming is paused, since when, by whom, why. No row: it never was.
SELECT p.generation, p.paused, p.changed_at, p.changed_by, p.reason
FROM messaging.pause AS p
