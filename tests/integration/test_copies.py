"""A copy of an outbox knows that it is one, and claims nothing until a person has said so."""

import os
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher import cli
from dispatcher.core.events import CrashAudited, DatabaseChanged, Settled, Ticked
from dispatcher.embedded import EmbeddedPostgres
from dispatcher.embedded.folders import User, unprivileged_user
from dispatcher.infra import sqlfiles
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.sqlfiles import load
from tests.support.postgres import Databases, StartPostgres
from tests.support.psql import client_program, psql
from tests.support.reads import blocks_of, blocks_read
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events, read_stream, read_table, statuses
from tests.support.running import Running, StartDispatcher
from tests.support.waiting import becomes, until


def dump(url: str, *options: str) -> str:
    """The whole database as SQL, without what its newer pg_dump sets and an older server does not know."""
    command = [str(client_program("pg_dump")), f"--dbname={url}", *options]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return text.replace("SET transaction_timeout = 0;\n", "")


def restore(url: str, text: str) -> None:
    """Over what is there, as `pg_restore --clean` does."""
    psql(url, "-q", text="DROP SCHEMA IF EXISTS messaging CASCADE;\n" + text)


def accept(url: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Say the word, as an operator does; what is answered."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["accept-copy", "--dsn", url])
    assert caught.value.code == 0
    return capsys.readouterr().out


async def refused(running: Running, why: str) -> None:
    """Wait until it says that it waits on a copy."""
    await running.tap.next(DatabaseChanged, lambda event: not event.up and why in str(event.reason))
    assert "this outbox is a copy" in str(running.service.not_ready)
    assert "accept-copy" in str(running.service.not_ready)


@pytest.mark.promise("copies")
async def test_a_dump_is_restored_over_what_was_relayed_meanwhile(
    dispatcher: StartDispatcher, database_url, db, redis, capsys
):
    await insert_events(db, 100)
    saved = await anyio.to_thread.run_sync(dump, database_url)
    async with dispatcher() as running:
        await running.tap.add_up(Settled, sent=100)
    await db.close()
    await anyio.to_thread.run_sync(restore, database_url, saved)
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as again,
        dispatcher(wait=False) as running,
    ):
        await refused(running, "restored from a dump")
        await insert_events(again, 5)
        assert await statuses(again) == {"pending": 105}
        said = await anyio.to_thread.run_sync(accept, database_url, capsys)
        assert "It was a copy: its rows were restored from a dump" in said
        await becomes(lambda: statuses(again), {"sent": 105})
        assert (await running.tap.next(CrashAudited)).found == 100
        assert len({entry["event_id"] for entry in await read_stream(redis)}) == len(await read_stream(redis)) == 105


@pytest.mark.promise("copies")
async def test_a_dump_goes_into_staging_with_another_redis(
    dispatcher: StartDispatcher, postgres: Databases, database_url, db, own_valkey: StartValkey, capsys
):
    async with dispatcher() as running:
        await insert_events(db, 50)
        await running.tap.add_up(Settled, sent=50)
    await insert_events(db, 20)
    staging = postgres.url(name := postgres.create())
    other = own_valkey()
    try:
        await anyio.to_thread.run_sync(restore, staging, await anyio.to_thread.run_sync(dump, database_url))
        async with (
            dispatcher(wait=False, database_url=staging, redis_url=other.url, http_enabled=True) as running,
            Redis.from_url(other.url, decode_responses=True) as elsewhere,
            await psycopg.AsyncConnection.connect(staging, autocommit=True) as copy,
        ):
            await refused(running, "restored from a dump")
            async with aiohttp.ClientSession() as http, http.get(f"{running.http_url}/ready") as answer:
                assert (answer.status, "this outbox is a copy" in await answer.text()) == (503, True)
            assert await elsewhere.dbsize() == 0
            with pytest.raises(SystemExit):
                await anyio.to_thread.run_sync(cli.main, ["status", "--dsn", staging, "--redis-url", other.url])
            assert "this outbox is a copy: its rows were restored" in capsys.readouterr().out
            await anyio.to_thread.run_sync(accept, staging, capsys)
            await becomes(lambda: statuses(copy), {"sent": 70})
            assert len(await read_stream(elsewhere)) == 20  # not what was sent before
    finally:
        postgres.drop(name)


@pytest.mark.promise("copies")
async def test_a_dump_is_restored_under_a_running_dispatcher(
    dispatcher: StartDispatcher, database_url, db, redis, capsys
):
    await insert_events(db, 10)
    saved = await anyio.to_thread.run_sync(dump, database_url)
    async with dispatcher(tick_ms=100) as running:
        await running.tap.add_up(Settled, sent=10)
        await db.close()
        await anyio.to_thread.run_sync(restore, database_url, saved)
        await refused(running, "restored from a dump")
        assert len(await read_stream(redis)) == 10
        await anyio.to_thread.run_sync(accept, database_url, capsys)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as again:
            await insert_events(again, 1)
            await becomes(lambda: statuses(again), {"sent": 11})
        assert len(await read_stream(redis)) == 11


@pytest.mark.promise("copies")
async def test_rows_alone_are_restored_into_emptied_tables(dispatcher: StartDispatcher, database_url, db, redis):
    await insert_events(db, 10)
    saved = await anyio.to_thread.run_sync(dump, database_url, "--data-only")
    async with dispatcher() as running:
        await running.tap.add_up(Settled, sent=10)
    tables = "message_outbox, message_dlq, dispatcher, home, unbroken, newest_entry, stream_server, schema_migration, "
    tables += "slot_owner, "
    await db.execute(f"TRUNCATE messaging.{tables.replace(', ', ', messaging.')}pause".encode())
    await anyio.to_thread.run_sync(lambda: psql(database_url, "-q", text=saved))
    async with dispatcher(wait=False) as running:
        await refused(running, "restored from a dump")
        assert len(await read_stream(redis)) == 10


@pytest.mark.promise("copies")
async def test_a_database_is_made_from_it_as_a_template(
    dispatcher: StartDispatcher, postgres: Databases, database_url, redis, capsys
):
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as db:
        await insert_events(db, 3)
    copy = postgres.url(name := postgres.create(database_url.rpartition("/")[2]))
    try:
        async with dispatcher(wait=False, database_url=copy) as running:
            await refused(running, "as a template")
            await anyio.to_thread.run_sync(accept, copy, capsys)
            await running.tap.add_up(Settled, sent=3)
    finally:
        postgres.drop(name)


async def test_a_copy_without_events_is_an_outbox_of_its_own(
    dispatcher: StartDispatcher, postgres: Databases, database_url, redis
):
    """As test suites make their databases: cloned, or from a dump, with all events inserted later."""
    schema = await anyio.to_thread.run_sync(dump, database_url, "--schema-only")
    everything = await anyio.to_thread.run_sync(dump, database_url)
    cloned, bare, full = (postgres.create(database_url.rpartition("/")[2]), postgres.create(), postgres.create())
    try:
        await anyio.to_thread.run_sync(restore, postgres.url(bare), schema)
        await anyio.to_thread.run_sync(restore, postgres.url(full), everything)
        for name in (cloned, bare, full):
            async with await psycopg.AsyncConnection.connect(postgres.url(name), autocommit=True) as db:
                if name != full:
                    await insert_events(db, 2)
                async with dispatcher(database_url=postgres.url(name)) as running:
                    await insert_events(db, 2)
                    await running.tap.add_up(Settled, sent=2 if name == full else 4)
    finally:
        for name in (cloned, bare, full):
            postgres.drop(name)


@pytest.mark.promise("copies")
async def test_a_clone_of_the_disk_is_given_another_redis(
    dispatcher: StartDispatcher, own_postgres: StartPostgres, own_valkey: StartValkey, server_folder: Path, capsys
):
    server, ours, theirs = own_postgres(durable=True, options={"fsync": "off"}), own_valkey(), own_valkey()
    await migrate(server.url())
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as db:
        async with dispatcher(database_url=server.url(), redis_url=ours.url) as running:
            await insert_events(db, 50)
            await running.tap.add_up(Settled, sent=50)

            async def noted() -> bool:
                asked = await db.execute("SELECT cardinality(addresses) FROM messaging.stream_server")
                return bool((await asked.fetchall())[0][0])

            await until(noted, "the address is noted")
        await insert_events(db, 20)
    await anyio.to_thread.run_sync(server.crash)
    folder = server_folder / f"clone-of-{Path(server.data_dir).name}"
    await anyio.run_process(["cp", "-a", str(server.data_dir), str(folder)])
    with type(server)(folder, version=server.version, durable=True, options={"fsync": "off"}) as clone:
        async with (
            dispatcher(database_url=clone.url(), redis_url=theirs.url) as running,
            await psycopg.AsyncConnection.connect(clone.url(), autocommit=True) as copy,
            Redis.from_url(theirs.url, decode_responses=True) as elsewhere,
        ):
            await running.tap.next(Ticked, lambda event: "this outbox is a copy" in str(event.error))
            assert await statuses(copy) == {"sent": 50, "pending": 20}
            assert "this outbox is a copy" in str(running.service.not_ready)
            await anyio.to_thread.run_sync(accept, clone.url(), capsys)
            await until(lambda: has(elsewhere, 70), "what waited and what was sent within the window is in its stream")
    # The original goes on, though its own Redis has lost everything in the same night.
    await anyio.to_thread.run_sync(server.start)
    await anyio.to_thread.run_sync(ours.crash)
    await anyio.to_thread.run_sync(ours.start)
    async with (
        dispatcher(database_url=server.url(), redis_url=ours.url),
        Redis.from_url(ours.url, decode_responses=True) as here,
    ):
        await until(lambda: has(here, 70), "the original has published all")


async def has(redis: Any, entries: int) -> bool:
    return bool(await redis.xlen("sanctum:messages") == entries)


async def settle(db: psycopg.AsyncConnection[Any], cluster: str) -> None:
    """Make the database its home, as one of that cluster."""
    async with db.transaction():
        await db.execute("DELETE FROM messaging.home")
        await db.execute(
            "INSERT INTO messaging.home (system_identifier, database, marked) "
            f"SELECT {cluster}, oid, '0' FROM pg_database WHERE datname = current_database()".encode()
        )
        await db.execute("UPDATE messaging.home AS h SET marked = h.xmin")


async def test_another_cluster_is_a_copy_and_one_that_does_not_tell_is_none(
    dispatcher: StartDispatcher, db, database_url, capsys
):
    """As pg_upgrade leaves it: the rows and the database are the same, the identifier of the cluster is not."""
    await insert_events(db, 1)
    await settle(db, "'7'")
    async with dispatcher(wait=False) as running:
        await refused(running, "as after pg_upgrade")
        await anyio.to_thread.run_sync(accept, database_url, capsys)
        await running.tap.add_up(Settled, sent=1)
    await settle(db, "NULL")
    await insert_events(db, 1)
    async with dispatcher() as running:
        await running.tap.add_up(Settled, sent=1)


async def test_one_row_tells_whether_it_brought_events_along(db: Any) -> None:
    """Each session asks at its opening: it read every row, and kept them in memory."""
    await insert_events(db, 20_000)
    await settle(db, "'7'")
    assert await blocks_read(db, load("why_copy"), {"settle": False}) < await blocks_of(db, "message_outbox") / 2


def run_as(user: User, folder: Path, *command: str) -> None:
    """Run a program of Postgres's as its user, in a folder of that user's."""
    done = subprocess.run(
        command, cwd=folder, user=user.uid, group=user.gid, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.promise("copies")
async def test_after_pg_upgrade_no_word_is_needed(
    dispatcher: StartDispatcher, server_folder: Path, redis: Redis
) -> None:
    """The real one, from 16 to 18; what was published by an old server meanwhile is found in the stream."""
    old = EmbeddedPostgres(server_folder / "before-upgrade", version=16, durable=False)
    new = EmbeddedPostgres(server_folder / "after-upgrade", version=18, durable=False)
    with old:
        await migrate(old.url())
        async with await psycopg.AsyncConnection.connect(old.url(), autocommit=True) as db:
            await insert_events(db, 5)
            async with dispatcher(database_url=old.url()) as running:
                await running.tap.add_up(Settled, sent=5)
            await insert_events(db, 3)
            ids = [row["event_id"] for row in await read_table(db) if row["status"] == "pending"]
    await redis.xadd(STREAM, {"event_id": str(ids[0])})
    new.data_dir.mkdir()
    user = unprivileged_user(new.data_dir / "cluster")
    os.chown(new.data_dir, user.uid, user.gid)
    initdb, upgrade = str(new.bin("initdb")), str(new.bin("pg_upgrade"))
    options = ("--username=postgres", "--encoding=UTF8", "--locale=C", "--no-data-checksums", "--no-sync")
    await anyio.to_thread.run_sync(run_as, user, new.data_dir, initdb, f"--pgdata={new.data_dir}/cluster", *options)
    places = (f"-b{old.bin('initdb').parent}", f"-B{new.bin('initdb').parent}")
    data = (f"-d{old.data_dir}/cluster", f"-D{new.data_dir}/cluster")
    sockets = f"--socketdir={new.data_dir}"
    await anyio.to_thread.run_sync(
        run_as, user, new.data_dir, upgrade, "-Upostgres", "--no-sync", sockets, *places, *data
    )
    with new:
        async with dispatcher(database_url=new.url()) as running:
            await running.tap.add_up(Settled, sent=2)
            assert (await running.tap.next(CrashAudited)).found == 1
        async with await psycopg.AsyncConnection.connect(new.url(), autocommit=True) as db:
            assert await statuses(db) == {"sent": 8}
            found = await db.execute("SELECT postgres FROM messaging.home")
            assert await found.fetchall() == [(18,)]  # the next upgrade is known too
    entries = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(entries) == len(set(entries)) == 8


async def test_an_older_database_upgrades_without_a_look(
    empty_database_url: str, dispatcher: StartDispatcher, redis
) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as db:
        before = [m for m in sqlfiles.migrations() if m.name < "20261130"]
        for migration in before:
            await db.execute(migration.sql.encode())
        await insert_events(db, 5)
        assert "20261130_home" in await migrate(empty_database_url)
        async with dispatcher(database_url=empty_database_url) as running:
            await running.tap.add_up(Settled, sent=5)
            assert running.tap.all(CrashAudited) == []


@pytest.mark.promise("copies")
async def test_a_subscriber_claims_nothing_until_it_takes_over(
    dispatcher: StartDispatcher, own_postgres: StartPostgres, redis
):
    """As in an upgrade by logical replication, or blue and green: its rows are published where they come from."""
    first = await anyio.to_thread.run_sync(lambda: own_postgres(options={"wal_level": "logical"}))
    second = await anyio.to_thread.run_sync(own_postgres)
    async with (
        await psycopg.AsyncConnection.connect(first.url(), autocommit=True) as db,
        await psycopg.AsyncConnection.connect(second.url(), autocommit=True) as copy,
    ):
        for server in (first, second):
            await migrate(server.url())
        await db.execute("CREATE PUBLICATION all_of_it FOR ALL TABLES")
        await copy.execute(
            f"CREATE SUBSCRIPTION upgrade CONNECTION 'host=127.0.0.1 port={first.port} user=postgres dbname=postgres'"
            " PUBLICATION all_of_it WITH (copy_data = false)"
        )
        await insert_events(db, 20)
        await becomes(lambda: statuses(copy), {"pending": 20})
        async with (
            dispatcher(wait=False, database_url=second.url()) as there,
            dispatcher(database_url=first.url()) as running,
        ):
            await running.tap.add_up(Settled, sent=20)
            await there.tap.next(DatabaseChanged, lambda event: "subscription upgrade" in str(event.reason))
            assert "DROP SUBSCRIPTION upgrade" in str(there.service.not_ready)
            await becomes(lambda: statuses(copy), {"sent": 20})
            running.service.stop("the other database takes over")
            await insert_events(db, 5)
            await becomes(lambda: statuses(copy), {"sent": 20, "pending": 5})
            await copy.execute("DROP SUBSCRIPTION upgrade")
            await becomes(lambda: statuses(copy), {"sent": 25})
        assert len(await read_stream(redis)) == 25
