-- subscriptions: says which subscriptions bring rows of another outbox into this one.
-- Parameters: none.
-- Returns: the name of each that is enabled, quoted where it has to be.
-- Loaded by: dispatcher/infra/postgres/tables.py
-- Index: none; a few rows.
SELECT quote_ident(s.subname)
FROM pg_subscription AS s
JOIN pg_subscription_rel AS r ON r.srsubid = s.oid
WHERE r.srrelid = 'messaging.message_outbox'::regclass
  AND s.subenabled
ORDER BY s.subname
