-- prove_clean: deletes proof events of `dispatcher prove`, and what one that was killed left unsettled.
-- Parameters: event_ids, event_type (of proof events), of_others (whether to look for what was left: it reads all that is unsettled).
-- Returns: nothing.
-- Loaded by: dispatcher/prove/run.py
-- Index: message_outbox_event_id_key, message_outbox_pkey; for what was left message_outbox_due_idx, all that is unsettled.
DELETE FROM ONLY messaging.message_outbox AS o
WHERE o.event_type = %(event_type)s
  AND o.id = ANY (ARRAY(
      SELECT c.id
      FROM ONLY messaging.message_outbox AS c
      WHERE c.event_id = ANY (%(event_ids)s::uuid[])
      UNION ALL
      SELECT c.id
      FROM ONLY messaging.message_outbox AS c
      WHERE %(of_others)s::boolean
        AND NOT c.settled
        AND c.event_type = %(event_type)s
  ))
