"""Servers that were hardened, restored or upgraded: what works under others' rules, and words for what does not."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import sql
from redis.asyncio import Redis

from dispatcher.core.events import Settled
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.doctor import schema
from tests.support.postgres import StartPostgres
from tests.support.psql import psql
from tests.support.readme import ROOT
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher

pytestmark = pytest.mark.both_versions

Db = psycopg.AsyncConnection[Any]
ROLES = ROOT / "sql" / "roles.sql"


@pytest.fixture
async def relay(empty_database_url: str) -> AsyncIterator[str]:
    """The URL of a login role that is only an outbox_dispatcher, in a database hardened before it was migrated."""
    roles = ("relay_of_test", "outbox_producer", "outbox_dispatcher", "outbox_pruner")
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as db:
        for objects in ("FUNCTIONS", "TYPES", "SEQUENCES", "TABLES", "SCHEMAS"):
            await db.execute(f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {objects} FROM PUBLIC".encode())
        await db.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON LANGUAGE plpgsql, sql FROM PUBLIC")
        await migrate(empty_database_url)
        await db.execute("REVOKE ALL ON SCHEMA messaging FROM PUBLIC; CREATE ROLE relay_of_test LOGIN")
        psql(
            empty_database_url, "-f", str(ROOT / "sql" / "roles.sql"), "-c", "GRANT outbox_dispatcher TO relay_of_test"
        )
        yield empty_database_url.replace("postgres@", "relay_of_test@")
        for role in roles:
            await db.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


async def test_default_privileges_that_give_nothing(
    relay: str, empty_database_url: str, redis: Redis, dispatcher: StartDispatcher
) -> None:
    """Published, never settled, and after a restart published again: nothing may rely on what PUBLIC may by default."""
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as db:
        async with dispatcher(database_url=relay, max_attempts=1) as running:
            await insert_events(db, 10)
            await running.tap.add_up(Settled, sent=10)
        assert len(await read_stream(redis)) == 10
        assert await statuses(db) == {"sent": 10}
        session = await connect(PostgresTarget(relay, "test"), "test")
        assert (await schema.rights(session)).level == "ok"
        await db.execute(
            "REVOKE EXECUTE ON FUNCTION messaging.holds_stream(text, text, text, bigint) FROM outbox_dispatcher"
        )
        found = await schema.rights(session)
        await session.close()
        assert found.level == "bad"
        assert "EXECUTE on messaging.holds_stream(text,text,text,bigint)" in found.found


async def test_burials_need_no_sequence(db: Db, dispatcher: StartDispatcher, redis: Redis) -> None:
    """One left behind by a logical upgrade gives ids that are taken: three such rows held all lanes."""
    await db.execute(
        "INSERT INTO messaging.message_dlq (outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,"
        " payload, attempts, occurred_at)"
        " SELECT -i, gen_random_uuid(), gen_random_uuid(), 'a', 'b', 'c', '{}', 1, now() FROM generate_series(1, 9) i"
    )
    await db.execute("SELECT setval('messaging.message_dlq_id_seq', 1, false)")
    async with dispatcher(max_attempts=1, max_payload_bytes=1000) as running:
        await insert_events(db, 20, payload='{"n": "' + "x" * 2000 + '"}')
        await insert_events(db, 10)
        await running.tap.add_up(Settled, sent=10, dead=20)
    assert len(await read_stream(redis)) == 10
    copies = [row["id"] for row in await read_table(db, "message_dlq") if row["outbox_id"] > 0]
    assert len(copies) == len(set(copies)) == 20
    await db.execute("CALL messaging.prune_message_outbox('0 seconds')")
    assert await statuses(db) == {}


async def test_a_publication_of_all_tables(
    own_postgres: StartPostgres, dispatcher: StartDispatcher, redis: Redis
) -> None:
    """As Debezium makes it, and blue and green: it refuses to delete from a table that has no key."""
    server = await anyio.to_thread.run_sync(lambda: own_postgres(options={"wal_level": "logical"}))
    await migrate(server.url())
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as db:
        await db.execute("CREATE PUBLICATION all_of_it FOR ALL TABLES")
        await db.execute("SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
        session = await connect(PostgresTarget(server.url(), "test"), "test")
        assert {each.check: each.found for each in await schema.trials(session) if each.level != "ok"} == {}
        await session.close()
        async with dispatcher(database_url=server.url(), max_attempts=1, max_payload_bytes=1000) as running:
            await insert_events(db, 20, payload='{"n": "' + "x" * 2000 + '"}')
            await insert_events(db, 10)
            await running.tap.add_up(Settled, sent=10, dead=20)
        without = await db.execute(
            "SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'messaging'::regnamespace AND c.relkind = 'r'"
            " AND c.relreplident <> 'f' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)"
        )
        assert await without.fetchall() == []


@pytest.mark.parametrize("what", ["(event_type, payload)", "WHERE (status = 'sent')"])
async def test_a_publication_that_refuses_updates_is_named(
    own_postgres: StartPostgres, dispatcher: StartDispatcher, what: str
) -> None:
    """The remedy was `dispatcher migrate`, which mends nothing; that of today does."""
    server = await anyio.to_thread.run_sync(lambda: own_postgres(options={"wal_level": "logical"}))
    await migrate(server.url())
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as db:
        if db.info.server_version < 150_000:
            pytest.skip("before Postgres 15 a publication has whole tables")
        await db.execute(f"CREATE PUBLICATION some_of_it FOR TABLE messaging.message_outbox {what}".encode())
        session = await connect(PostgresTarget(server.url(), "test"), "test")
        found = [each for each in await schema.trials(session) if each.level != "ok"]
        await session.close()
        assert (found[0].check, "42P10" in found[0].found) == ("try-claim", True)
        assert "ALTER PUBLICATION ... SET (publish = 'insert')" in (found[0].remedy or "")
        await db.execute("ALTER PUBLICATION some_of_it SET (publish = 'insert')")
        async with dispatcher(database_url=server.url()) as running:
            await insert_events(db, 10)
            await running.tap.add_up(Settled, sent=10)


async def test_functions_of_others_before_those_of_postgres_change_nothing(db: Db, dispatcher: StartDispatcher) -> None:
    """A schema before pg_catalog in the search_path, as tests that travel in time have: events that are due waited."""
    await db.execute("CREATE SCHEMA override")
    await db.execute(
        "CREATE FUNCTION override.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
        "$$ SELECT pg_catalog.clock_timestamp() - interval '1 hour' $$"
    )
    await db.execute(f"ALTER DATABASE {db.info.dbname} SET search_path = override, pg_catalog, public".encode())
    await insert_events(db, 3, next_run_at=datetime.now(UTC) - timedelta(minutes=1))
    async with dispatcher(tick_ms=100) as running:
        await running.tap.add_up(Settled, sent=3)


async def test_the_registry_passes_ids_that_are_taken(db: Db, dispatcher: StartDispatcher) -> None:
    await db.execute("INSERT INTO messaging.dispatcher (id, name) SELECT i, 'other' FROM generate_series(1, 50) AS i")
    await db.execute("SELECT setval('messaging.dispatcher_id_seq', 1, false)")
    async with dispatcher() as running:
        await insert_events(db, 10)
        await running.tap.add_up(Settled, sent=10)
        assert (await db.execute("SELECT FROM messaging.dispatcher WHERE id > 50")).rowcount == 1


async def test_migrate_sets_sequences_that_were_left_behind(db: Db, database_url: str) -> None:
    await insert_events(db, 5000)
    await db.execute("INSERT INTO messaging.dispatcher (id, name) VALUES (77, 'other')")
    session = await connect(PostgresTarget(database_url, "test"), "test")
    await db.execute("SELECT setval('messaging.message_outbox_id_seq', 7, true)")
    found = await schema.sequences(session)
    assert found.level == "bad"
    assert found.remedy is not None
    assert "setval('messaging.message_outbox_id_seq', 6000)" in found.remedy
    with pytest.raises(psycopg.errors.UniqueViolation):
        await insert_events(db)
    applied = await migrate(database_url)
    assert {name.split()[0] for name in applied} == {"messaging.dispatcher_id_seq", "messaging.message_outbox_id_seq"}
    assert await insert_events(db) == [6001]
    assert await migrate(database_url) == []
    assert (await schema.sequences(session)).level == "ok"
    # A dead event whose row was pruned still has its id; nothing is refused yet.
    await db.execute("UPDATE messaging.message_outbox SET status = 'dead'")
    await db.execute("CALL messaging.prune_message_outbox('0 seconds')")
    await db.execute("SELECT setval('messaging.message_outbox_id_seq', 1, false)")
    assert (await schema.sequences(session)).level == "warning"
    await session.close()


async def test_a_large_table_is_not_written_anew(db: Db, database_url: str) -> None:
    """Writers would wait for it: old rows keep their slots, and claims compute the hash. New rows get the right one."""
    await db.execute(
        "ALTER TABLE messaging.message_outbox DROP COLUMN slot, ADD COLUMN slot smallint GENERATED ALWAYS AS"
        " (('x' || substr(md5(aggregate_id), 1, 2))::bit(8)::integer) STORED"
    )
    await db.execute("DELETE FROM messaging.schema_migration WHERE name LIKE '20251201%'")
    await db.execute("SET dispatcher.doorbell = off")
    await db.execute(
        "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload)"
        " SELECT 'a', i, to_jsonb((SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(i, i + 40)))"
        " FROM generate_series(1, 15000) AS i"
    )
    size = await db.execute("SELECT pg_table_size('messaging.message_outbox') > 32 * 1024 * 1024")
    assert await size.fetchone() == (True,)
    before = await (await db.execute("SELECT pg_relation_filenode('messaging.message_outbox')")).fetchall()
    assert "20251201_slot_without_md5" in await migrate(database_url)
    assert await (await db.execute("SELECT pg_relation_filenode('messaging.message_outbox')")).fetchall() == before
    [row_id] = await insert_events(db)
    right = "SELECT slot = (hashtextextended(aggregate_id, 0) & 255) FROM messaging.message_outbox WHERE id = %s"
    assert await (await db.execute(right, (row_id,))).fetchall() == [(True,)]
