-- Who: upkeep/pause.py at the end of a clean stop. Index: pause_acknowledgement_pkey.
DELETE FROM messaging.pause_acknowledgement AS a WHERE a.name = %(name)s
