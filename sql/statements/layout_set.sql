-- layout_set: sets the layout of the streams; see messaging.set_layout.
-- Parameters: fingerprint, spec (JSON), keys (all keys of it), former (keys of layouts before it that are to be remembered), by (who),
--   first (whether nothing may have been published yet; else everything must be paused).
-- Returns: one row: why it was not set; NULL: it is set.
-- Loaded by: dispatcher/ops/layout.py
-- Index: layout_pkey; message_outbox_due_idx, all that is unsettled, which is affordable because it is rare. A first layout:
--   message_outbox_pkey, the oldest 100,000 rows, and as many of the newest.
SELECT messaging.set_layout(
    %(fingerprint)s, %(spec)s::jsonb, %(keys)s::text[], %(former)s::text[], %(by)s, %(first)s::boolean
)
