-- ring_all: wakes every dispatcher that listens, after a person changed rows that an owner of slots may know from its memory.
-- Parameters: none.
-- Returns: one row. outbox_backlog ends a sleep; outbox_control is heard by all, also by those that are awake.
-- Loaded by: dispatcher/client/django/models.py, dispatcher/ops/dead_letters/decide.py
-- Index: none.
SELECT pg_notify('outbox_backlog', ''), pg_notify('outbox_control', '')
