-- Removes the doorbell. The dispatcher goes on, on its tick.
DROP TRIGGER IF EXISTS message_outbox_doorbell ON messaging.message_outbox;
DROP FUNCTION IF EXISTS messaging.ring_doorbell();
DROP FUNCTION IF EXISTS messaging.doorbell_not_rung();
