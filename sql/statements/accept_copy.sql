-- accept_copy: makes a copy the outbox; see messaging.accept_copy.
-- Parameters: none.
-- Returns: one row: why it was a copy, NULL: it was none.
-- Loaded by: dispatcher/ops/accept_copy.py
-- Index: none; one row a table.
SELECT messaging.accept_copy()
