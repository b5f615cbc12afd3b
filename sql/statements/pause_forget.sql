-- pause_forget: removes the note of a dispatcher that stops.
-- Parameters: name.
-- Returns: nothing.
-- Loaded by: dispatcher/upkeep/pause.py
-- Index: pause_acknowledgement_pkey.
DELETE FROM ONLY messaging.pause_acknowledgement AS a WHERE a.name = %(name)s
