-- Who: upkeep/registry.py at the end of a clean stop, upkeep/takeover.py after a succession. Index: dispatcher_pkey; then
-- message_outbox_due_idx: rare, so walking what is unsettled is affordable.
-- Removes a dispatcher from the registry, unless rows are still claimed in its name: those need a successor. With it goes what it
-- said about a pause.
WITH gone AS (
    DELETE FROM messaging.dispatcher AS d
    WHERE d.id = %(id)s
      AND NOT EXISTS (
          SELECT FROM messaging.message_outbox AS o WHERE NOT o.settled AND o.status = 'picked' AND o.picked_by = d.id
      )
    RETURNING d.name
)
DELETE FROM messaging.pause_acknowledgement AS a
USING gone AS g
WHERE a.name = g.name
