-- Who: upkeep/registry.py, when the control session came back. Index: dispatcher_pkey.
-- Answer: a row when our id is another's now: a promoted standby that had not heard of us gave it away again.
SELECT 1 FROM messaging.dispatcher AS d WHERE d.id = %(id)s AND d.name <> %(name)s
