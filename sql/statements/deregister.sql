-- deregister: removes a dispatcher from the registry, unless rows are still claimed in its name, or slots are its own or were revoked from
--   it: another dispatcher must take those over first.
-- Parameters: id.
-- Returns: a row if it was removed.
-- Loaded by: dispatcher/ops/trial_list.py, dispatcher/upkeep/registry.py, dispatcher/upkeep/takeover.py
-- Index: dispatcher_pkey; message_outbox_due_idx, all that is unsettled, which is affordable because it is rare.
-- What it noted about a pause is removed with it. Those who keep slots look again: its slots may be free since a moment ago, and as
-- long as it stood here it counted among those who share them.
WITH gone AS (
    DELETE FROM ONLY messaging.dispatcher AS d
    WHERE d.id = %(id)s
      AND NOT EXISTS (
          SELECT FROM ONLY messaging.message_outbox AS o WHERE NOT o.settled AND o.status = 'picked' AND o.picked_by = d.id
      )
      AND NOT EXISTS (SELECT FROM ONLY messaging.slot_owner AS s WHERE d.id IN (s.owner, s.revoked_from))
    RETURNING d.name
),
forgotten AS (
    DELETE FROM ONLY messaging.pause_acknowledgement AS a
    USING gone AS g
    WHERE a.name = g.name
)
SELECT pg_notify('outbox_slots', '') FROM gone
