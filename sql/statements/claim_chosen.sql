-- claim_chosen: claims rows that were chosen from what peek found.
-- Parameters: those of claim in order, of which it has claim_id, dispatcher, floor, mark, mask, owned, epochs, running, parked, limit,
--   most_bytes, layout and now; ids (the rows).
-- Returns: as claim in order; a row that is missing is locked by somebody else, or not due any more.
-- Loaded by: dispatcher/stages/claim_in_order.py
-- Index: message_outbox_pkey.
-- A line "--like: claim, from A, before B" stands for the part of claim.sql from A up to B: see load() of dispatcher/infra/sqlfiles.py
--   ('NOTHING' is nowhere in it: up to its end).
WITH mine AS MATERIALIZED (
--like: claim, from '    --ordered:     SELECT (%(floor)s', before '    --ordered: ),'
)
--like: claim, from 'UPDATE ONLY', before 'WHERE o.ctid'
WHERE o.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM ONLY messaging.message_outbox AS d
    WHERE d.id = ANY (%(ids)s::bigint[])
      AND d.status IN ('pending', 'retry')
      AND d.next_run_at <= (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()))
      AND (SELECT m.ours FROM mine AS m)
    FOR UPDATE SKIP LOCKED
))
--like: claim, from 'RETURNING', before 'NOTHING'
