-- Run by psql in compose.yaml, after sql/roles.sql, any number of times: logins for the dispatcher and the sample producer.
-- The passwords come from the environment.
\getenv relay_password RELAY_PASSWORD
\getenv shop_password SHOP_PASSWORD
SELECT format('CREATE ROLE %I LOGIN', login)
FROM (VALUES ('relay'), ('shop')) AS wanted (login)
WHERE login NOT IN (SELECT rolname FROM pg_roles)
\gexec
ALTER ROLE relay PASSWORD :'relay_password';
ALTER ROLE shop PASSWORD :'shop_password';
GRANT outbox_dispatcher TO relay;
GRANT outbox_producer TO shop;
