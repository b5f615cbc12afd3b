-- Two tables without a primary key: a publication that holds all tables (CREATE PUBLICATION ... FOR ALL TABLES, as Debezium makes it,
-- and blue/green upgrades) refused to delete from them, and so every retry and every burial of a dispatcher.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

ALTER TABLE ONLY messaging.message_history REPLICA IDENTITY FULL;
ALTER TABLE ONLY messaging.home REPLICA IDENTITY FULL;
