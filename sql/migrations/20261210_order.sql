-- Order within an aggregate (DISPATCH_ORDER=aggregate): who owns which slot. Without order nothing reads or writes this table.
-- Runs under plain `psql -f` and under `dispatcher migrate`, any number of times. Postgres 14 and later.
-- Must not change once it is released: a later change is a later file.

-- A slot is in one of these states:
--   owner                        owned: its owner alone claims its rows.
--   revoked_from, not fenced     taken from a dispatcher that is dead or frozen: that one can still act, and must be fenced.
--   revoked_from, fenced         it cannot act any more; rows that it had in hand are still to be settled or released.
--   neither                      free.
CREATE TABLE IF NOT EXISTS messaging.slot_owner (
    slot         smallint    NOT NULL CONSTRAINT slot_owner_pkey PRIMARY KEY CONSTRAINT slot_owner_slot_check CHECK (slot BETWEEN 0 AND 255),
    owner        bigint,
    epoch        bigint      NOT NULL DEFAULT 0,
    revoked_from bigint,
    fenced       boolean     NOT NULL DEFAULT false,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT slot_owner_state_check CHECK ((owner IS NULL OR revoked_from IS NULL) AND (revoked_from IS NOT NULL OR NOT fenced))
) WITH (fillfactor = 50);
COMMENT ON TABLE messaging.slot_owner IS 'With DISPATCH_ORDER=aggregate: which dispatcher alone claims the rows of each of the 256 slots.';
COMMENT ON COLUMN messaging.slot_owner.slot IS '0 to 255: hashtextextended(aggregate_id, 0) & 255.';
COMMENT ON COLUMN messaging.slot_owner.owner IS 'messaging.dispatcher.id; NULL: nobody, so no row of it is claimed.';
COMMENT ON COLUMN messaging.slot_owner.epoch IS 'Grows each time that an owner loses it.';
COMMENT ON COLUMN messaging.slot_owner.revoked_from IS 'The dispatcher that it was taken from; nobody may own it before that one is fenced and its rows are settled or released.';
COMMENT ON COLUMN messaging.slot_owner.fenced IS 'Whether the sessions and connections of revoked_from were ended since.';
COMMENT ON COLUMN messaging.slot_owner.changed_at IS 'When it was owned, released or revoked last.';

INSERT INTO messaging.slot_owner (slot)
SELECT n FROM generate_series(0, 255) AS s (n)
ON CONFLICT (slot) DO NOTHING;

ALTER TABLE messaging.dispatcher
    ADD COLUMN IF NOT EXISTS slots smallint;
COMMENT ON COLUMN messaging.dispatcher.slots IS 'With DISPATCH_ORDER=aggregate: of how many of the first slots it may own some; NULL: it owns none.';

-- Who may mark the outbox as unbroken, as a dispatcher does, may do this too, also before sql/roles.sql was run again.
DO $$
DECLARE
    who text;
BEGIN
    FOR who IN
        SELECT DISTINCT a.grantee::regrole::text
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = 'messaging.unbroken'::regclass
          AND a.privilege_type = 'INSERT'
          AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE 'GRANT SELECT, UPDATE ON messaging.slot_owner TO ' || who;
    END LOOP;
END
$$;
