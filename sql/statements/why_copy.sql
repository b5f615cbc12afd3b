-- why_copy: asks whether this outbox is a copy of another one; see messaging.why_copy.
-- Parameters: settle (true: a copy that brought no event along becomes an outbox of its own).
-- Returns: one row: why it is a copy, NULL: it is none.
-- Loaded by: dispatcher/infra/postgres/tables.py
-- Index: none; one row. Of a template the outbox, as far as the first event that came along.
SELECT messaging.why_copy(%(settle)s)
