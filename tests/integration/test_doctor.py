"""`dispatcher doctor`: each thing it looks at is broken for real, and it says so, with what mends it."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.decide import Refused
from dispatcher.core.findings.finding import Finding, bad
from dispatcher.core.findings.troubles import QUEUE_HOLDER
from dispatcher.core.layout import Layout
from dispatcher.embedded import EmbeddedValkey, free_port
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.doctor import Examination, examine, guarantees, storage
from dispatcher.ops.doctor import redis as redis_server
from dispatcher.ops.doctor.clocks import judge
from dispatcher.ops.doctor.guarantees import GUARANTEES
from dispatcher.ops.trial_list import TRIALS
from tests.support.command import RunCommand
from tests.support.faults.pgwire import LoseNotifications
from tests.support.options import server_options
from tests.support.postgres import Databases, StartPostgres
from tests.support.proxy import Direction, Filter, StartProxy
from tests.support.readme import page
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events
from tests.support.waiting import until

OUTBOX = "messaging.message_outbox"
Examine = Callable[..., Awaitable[dict[str, Finding]]]


@pytest.fixture(scope="module")
def shared_url(request: pytest.FixtureRequest, databases_of: Callable[[str], Databases]) -> Iterator[str]:
    """A database for those who mend what they break."""
    databases = databases_of(server_options(request.config).postgres_names[0])
    name = databases.clone()
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
async def shared(shared_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """An autocommit connection to it."""
    async with await psycopg.AsyncConnection.connect(shared_url, autocommit=True) as connection:
        yield connection


# A notification that comes late on a busy machine is not lost, nor is a clock ahead whose answer comes late.
PATIENT = {"listen_timeout_s": 30.0, "clock_warning_s": 30.0}


@pytest.fixture
def look(shared_url: str, redis_url: str) -> Examine:
    """Examines the test's servers, or those given; the findings by their check (of several groups: the first)."""

    async def run(
        database: str = shared_url, redis: str = redis_url, *, listen: str | None = None, **wanted: Any
    ) -> dict[str, Finding]:
        target = PostgresTarget(database, "dispatcher", connect_timeout_s=30.0, query_timeout_s=30.0)
        listening = PostgresTarget(listen or database, "dispatcher", connect_timeout_s=30.0, query_timeout_s=30.0)
        findings = await examine(
            Examination(target, listening, redis, Layout(wanted.pop("stream", STREAM)), 100, **(PATIENT | wanted))
        )
        return {finding.check: finding for finding in reversed(findings)}

    return run


async def test_all_is_well(look: Examine, own_valkey: StartValkey, shared: psycopg.AsyncConnection) -> None:
    primary = own_valkey(appendonly=True, options={"repl-diskless-sync-delay": "0"})
    replica = own_valkey()
    async with Redis.from_url(primary.url, socket_timeout=30) as redis, Redis.from_url(replica.url) as follower:
        await redis.xgroup_create(STREAM, "billing", mkstream=True)
        await follower.execute_command("REPLICAOF", "127.0.0.1", primary.port)  # type: ignore[no-untyped-call]
        assert await redis.wait(1, 20_000) == 1
    await shared.execute("INSERT INTO messaging.dispatcher (id, name, version) VALUES (7, 'one', '1.0')")
    await shared.execute("SELECT pg_advisory_lock(1869968483, 7)")
    await shared.execute("SET application_name = 'dispatcher control'")
    found = await look(redis=primary.url)
    fast = "fsync and full_page_writes off: a crash of the machine may lose or damage everything"  # the tests' server
    wrong = {check: each.found for check, each in found.items() if each.level != "ok"}
    told = {"redis-version": found["redis-version"].found} if "6.2" in found["redis"].found else {}
    assert wrong == {"fsync": fast} | told
    assert len(found) == 52
    assert {check for check, each in found.items() if each.remedy} == {"fsync", *told}
    assert (await look(redis=replica.url))["redis-replicas"].level == "bad"
    assert (await look(redis=replica.url))["redis-entries"].found == "it takes no entry: READONLY"


async def test_it_changes_nothing(look: Examine, redis: "Redis") -> None:
    await look()
    assert await redis.keys("*") == []


# What breaks it, the check, how bad, words of the finding. The remedies that are SQL are carried out, and mend it.
POSTGRES = {
    "an outbox that a crash empties": (
        f"ALTER TABLE {OUTBOX} SET UNLOGGED",
        "durability", "bad", "unlogged: message_outbox",
    ),
    "a crash that goes unnoticed": (
        "ALTER TABLE messaging.unbroken SET LOGGED",
        "durability", "bad", "would go unnoticed",
    ),
    "trigger dropped": (
        f"DROP TRIGGER message_outbox_doorbell ON {OUTBOX}",
        "trigger", "warning", "is missing",
    ),
    "trigger disabled": (
        f"ALTER TABLE {OUTBOX} DISABLE TRIGGER message_outbox_doorbell",
        "trigger", "warning", "is disabled",
    ),
    "trigger for replicas": (
        f"ALTER TABLE {OUTBOX} ENABLE REPLICA TRIGGER message_outbox_doorbell",
        "trigger", "bad", "replication only",
    ),
    "trigger at the insert": (
        f"DROP TRIGGER message_outbox_doorbell ON {OUTBOX};"
        f"CREATE TRIGGER message_outbox_doorbell AFTER INSERT ON {OUTBOX}"
        " FOR EACH ROW EXECUTE FUNCTION messaging.ring_doorbell()",
        "trigger", "warning", "at the insert",
    ),
    "trigger of somebody else": (
        "CREATE OR REPLACE FUNCTION messaging.ring_doorbell() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NOTIFY outbox_doorbell; RETURN NULL; END $$",
        "trigger", "warning", "not that of this release",
    ),
    "table dropped": ("DROP TABLE messaging.stream_server", "tables", "bad", "20250203_message_outbox"),
    "index dropped": ("DROP INDEX messaging.message_outbox_due_idx", "indexes", "bad", "message_outbox_due_idx"),
    "unique index dropped": ("DROP INDEX messaging.message_dlq_open_key", "indexes", "bad", "message_dlq_open_key"),
    "constraint dropped": (
        f"ALTER TABLE {OUTBOX} DROP CONSTRAINT message_outbox_event_id_key",
        "indexes", "bad", "message_outbox_event_id_key",
    ),
    "index not valid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'messaging.message_dlq_died_at_idx'::regclass",
        "indexes", "bad", "message_dlq_died_at_idx",
    ),
    "index on what a claim writes": (
        f"CREATE INDEX stuck_idx ON {OUTBOX} (occurred_at) WHERE status = 'picked'",
        "indexes", "warning", "stuck_idx",
    ),
    "fillfactor": (
        f"ALTER TABLE {OUTBOX} SET (fillfactor = 100)",
        "storage", "warning", "fillfactor is 100 instead of 44",
    ),
    "autovacuum settings": (
        f"ALTER TABLE {OUTBOX} RESET (autovacuum_vacuum_scale_factor)",
        "storage", "warning", "autovacuum_vacuum_scale_factor is not set instead of 0.02",
    ),
    "paused": (
        "INSERT INTO messaging.pause (generation, paused, changed_by, reason) VALUES (1, true, 'ada', 'a move')",
        "pause", "bad", "by ada (a move)",
    ),
    "autovacuum off": (
        f"ALTER TABLE {OUTBOX} SET (autovacuum_enabled = off)",
        "autovacuum", "bad", "off for message_outbox",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", POSTGRES)
async def test_postgres(case: str, look: Examine, shared: psycopg.AsyncConnection, shared_url: str) -> None:
    statement, check, level, words = POSTGRES[case]
    assert (await look())[check].level == "ok"
    await shared.execute(statement.encode())
    found = (await look())[check]
    assert found.level == level
    assert words in found.found
    await mend(found, shared, shared_url)
    assert (await look())[check].level == "ok"


async def mend(found: Finding, db: psycopg.AsyncConnection, database_url: str) -> None:
    """Do what a remedy says."""
    assert found.remedy is not None
    for step in re.split(r"; |, then ", found.remedy):
        if "dispatcher migrate" in step:
            await migrate(database_url)
        elif "`dispatcher resume`" in step:
            await db.execute("UPDATE messaging.pause SET paused = false")
        elif sql := re.search(r"^[A-Z]{2}.*|(?<=`)[A-Z]{2}[^`]*", step):
            await db.execute(sql[0].encode())


async def test_a_trigger_that_is_meant_to_be_absent(
    look: Examine, db: psycopg.AsyncConnection, database_url: str
) -> None:
    await db.execute(f"DROP TRIGGER message_outbox_doorbell ON {OUTBOX}")
    assert (await look(database_url, trigger=False))["trigger"].level == "ok"


async def test_the_settings_it_wants_are_those_of_the_migrations(shared: psycopg.AsyncConnection) -> None:
    rows = await shared.execute("SELECT unnest(reloptions) FROM pg_class WHERE oid = %s::regclass", [OUTBOX])
    assert dict(option.split("=") for (option,) in await rows.fetchall()) == storage.SETTINGS


@pytest.fixture
async def stranger(shared: psycopg.AsyncConnection, shared_url: str) -> AsyncIterator[str]:
    """The URL of a role that may not do all that a dispatcher does."""
    name = f"stranger_{free_port()}"
    for statement in (
        f"CREATE ROLE {name} LOGIN",
        f"GRANT USAGE ON SCHEMA messaging TO {name}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA messaging TO {name}",
        f"REVOKE INSERT ON messaging.message_dlq FROM {name}",
    ):
        await shared.execute(statement.encode())
    yield f"{shared_url}?user={name}"
    await shared.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


async def test_a_right_is_missing(look: Examine, stranger: str) -> None:
    found = await look(stranger)
    assert found["rights"].level == "bad"
    assert "INSERT on messaging.message_dlq" in found["rights"].found
    assert "dispatcher sql roles" in str(found["rights"].remedy)  # the role may have been granted, and lack a right


async def test_the_limit_is_that_of_the_role_that_logs_in(
    look: Examine, stranger: str, shared: psycopg.AsyncConnection
) -> None:
    """A role that Vault makes becomes another one as soon as it has logged in."""
    name = stranger.rpartition("=")[2]
    await shared.execute(f"CREATE ROLE {name}_group; GRANT {name}_group TO {name}".encode())
    await shared.execute(f"ALTER ROLE {name} CONNECTION LIMIT 4; ALTER ROLE {name} SET role = {name}_group".encode())
    try:
        found = (await look(stranger))["sessions"]
        assert (found.level, "this role may have 4 connections" in found.found) == ("warning", True)
        await shared.execute(f"ALTER ROLE {name} CONNECTION LIMIT -1".encode())
        there = await shared.execute("SELECT FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL")
        found = (await look(stranger))["sessions"]
        assert int(found.found.split()[0]) >= there.rowcount, "those of other roles count too"
    finally:
        await shared.execute(f"DROP ROLE {name}_group".encode())


async def test_an_old_snapshot_names_who_holds_it(
    look: Examine, stranger: str, shared: psycopg.AsyncConnection, shared_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(shared_url, application_name="nightly report") as holder:
        await holder.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await holder.execute("SELECT 1")
        found = (await look(snapshot_warning_s=0.0))["snapshot"]
        assert found.level == "warning"
        assert f"session {holder.info.backend_pid} " in found.found
        assert "nightly report" in found.found
        assert f"pg_terminate_backend({holder.info.backend_pid})" in str(found.remedy)
        assert (await look(snapshot_warning_s=0.0, snapshot_bad_s=0.0))["snapshot"].level == "bad"
        assert (await look())["snapshot"].level == "ok"
        assert (await look(stranger))["snapshot"].level == "ok"
        await shared.execute(
            "DO $$ BEGIN FOR n IN 1..10000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )
        found = (await look(stranger))["snapshot"]  # its age is not visible; who it is and how many transactions ago is
        assert (found.level, found.needs_somebody) == ("warning", "by morning")
        assert "nightly report" in found.found
        assert re.search(r"10,\d{3} transactions ago", found.found)
        assert f"pg_terminate_backend({holder.info.backend_pid})" in str(found.remedy)

    async def gone() -> bool:
        return (await look(snapshot_warning_s=0.0))["snapshot"].level == "ok"

    await until(gone, "the server has ended its session")


async def test_a_prepared_transaction_that_was_forgotten(
    look: Examine, shared: psycopg.AsyncConnection, shared_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(shared_url) as holder:
        await holder.execute("SET dispatcher.doorbell = off")
        await insert_events(holder)
        await holder.execute("PREPARE TRANSACTION 'forgotten'")
    found = (await look(snapshot_warning_s=0.0))["snapshot"]
    assert found.level == "warning"
    assert "prepared transaction forgotten" in found.found
    await shared.execute("ROLLBACK PREPARED 'forgotten'")


async def test_dead_rows_pile_up(look: Examine, db: psycopg.AsyncConnection, database_url: str) -> None:
    await insert_events(db, 200, status="sent")
    assert (await look(database_url, dead_rows=50))["dead-rows"].level == "ok"
    await db.execute(f"ALTER TABLE {OUTBOX} SET (autovacuum_enabled = off)")
    await db.execute(f"DELETE FROM {OUTBOX}")

    async def warning() -> Finding | None:
        await db.execute("SELECT 1")  # half a second after the change a statement reports it to the statistics
        found = (await look(database_url, dead_rows=50))["dead-rows"]
        told = re.search(r"message_outbox has ([\d,]+) dead row versions?", found.found)
        return found if told and int(told[1].replace(",", "")) >= 200 else None  # each look adds those of its trials

    found = await until(warning, "doctor hears of the dead rows")
    assert found.level == "warning"
    assert "VACUUM (ANALYZE) messaging.message_outbox" in str(found.remedy)
    async with await psycopg.AsyncConnection.connect(database_url, application_name="monthly-report") as holder:
        await holder.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await holder.execute("SELECT 1")
        await db.execute("DO $$ BEGIN FOR n IN 1..300 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        seen = await look(database_url, dead_rows=50)  # dead-rows sends its reader to `snapshot`
        assert (seen["dead-rows"].level, seen["snapshot"].level) == ("warning", "warning")
        assert "monthly-report" in seen["snapshot"].found


async def test_rows_that_are_late(look: Examine, shared: psycopg.AsyncConnection) -> None:
    await insert_events(shared, next_run_at="2025-06-01 00:00:00+00")
    found = await look()
    assert (found["backlog"].level, found["backlog"].remedy) == ("bad", "see dispatchers")
    assert found["dispatchers"].level == "bad"
    assert found["dispatchers"].found.startswith("No dispatcher is alive, and 1 event waits")
    await shared.execute(f"DELETE FROM {OUTBOX}")


@pytest.mark.promise("clock")
@pytest.mark.parametrize(("ahead_s", "level"), [(30, "warning"), (3600, "bad")])
async def test_rows_that_wait_because_the_clock_went_back(
    look: Examine, shared: psycopg.AsyncConnection, ahead_s: int, level: str
) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    await insert_events(shared, next_run_at=later)  # scheduled
    await insert_events(shared, status="retry", attempts=1, next_run_at=later, picked_at=datetime.now(UTC))
    await insert_events(shared, next_run_at="infinity", occurred_at=later)
    assert (await look())["backlog"].level == "ok"
    ahead = datetime.now(UTC) + timedelta(seconds=ahead_s)
    await insert_events(shared, 2, next_run_at=ahead, occurred_at=ahead)  # its producer wrote now() into both
    await insert_events(shared, status="retry", attempts=1, next_run_at=ahead, picked_at=ahead)
    found = (await look())["backlog"]
    assert found.level == level
    assert found.found.startswith("3 rows in the future, by up to ")
    [remedy] = re.findall("UPDATE .*", str(found.remedy))
    assert (await shared.execute(remedy.encode())).rowcount == 3
    assert (await look())["backlog"].level == "ok"
    await shared.execute(f"DELETE FROM {OUTBOX}")


async def test_a_read_only_database_and_one_that_is_away(
    look: Examine, db: psycopg.AsyncConnection, database_url: str
) -> None:
    name = db.info.dbname
    await db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    found = await look(database_url)
    assert found["primary"].level == "bad"
    assert "read-only" in found["primary"].found
    away = await look(f"postgresql://u:hunter2@127.0.0.1:{free_port()}/app")
    assert away["postgres"].level == "bad"
    assert "hunter2" not in repr(away)
    assert "redis" in away


async def test_a_full_notification_queue_and_a_standby(
    look: Examine, own_postgres: StartPostgres, pytestconfig: pytest.Config
) -> None:
    if server_options(pytestconfig).postgres[0] < 17:
        pytest.skip("max_notify_queue_pages came with Postgres 17")
    server = own_postgres(options={"max_notify_queue_pages": "64", "autovacuum": "off"})
    url = server.url()
    await migrate(url)
    async with (
        await psycopg.AsyncConnection.connect(url) as blocker,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as writer,
    ):
        await blocker.execute("LISTEN anything")
        await blocker.commit()
        await blocker.execute("SELECT 1")  # a transaction left open keeps the queue from advancing
        levels = []
        for _ in range(3):
            levels.append((await look(url))["notify-queue"].level)
            await writer.execute("SELECT pg_notify('filler', i || repeat('x', 7000)) FROM generate_series(1, 20) AS i")
        found = await look(url)
        unseen, holder = QUEUE_HOLDER.encode(), blocker.info.backend_pid
        shown = await (await writer.execute(unseen)).fetchall()
        await writer.execute("CREATE ROLE nobody_in_particular; SET ROLE nobody_in_particular")
        hidden = await (await writer.execute(unseen)).fetchall()
        await writer.execute("RESET ROLE")
    assert levels == ["ok", "warning", "bad"]
    assert shown[0][0] == holder  # whatever its age
    assert (holder, "<insufficient privilege>") in [(row[0], row[-1]) for row in hidden]
    assert QUEUE_HOLDER in str(found["notify-queue"].remedy)
    assert found["autovacuum"].level == "bad"

    server.stop()
    (server.data_dir / "cluster" / "standby.signal").touch()  # in recovery, which nothing but a promotion ends
    server.start()
    found = await look(url)
    assert found["primary"].level == "bad"
    assert "standby" in found["primary"].found
    assert "listen" not in found


async def test_notifications_that_something_in_between_drops(look: Examine, shared_url: str, proxy: StartProxy) -> None:
    through = await proxy(shared_url)
    through.make_filter = LoseNotifications()
    found = await look(listen=f"{through.via(shared_url)}?sslmode=disable", listen_timeout_s=0.5)
    assert found["listen"].level == "bad"
    assert "in between drops it" in found["listen"].found
    assert "DISPATCH_LISTEN_URL" in str(found["listen"].remedy)


@pytest.fixture
def pgbouncer(server_folder: Path, shared_url: str) -> Iterator[str]:
    """The URL of the test's database through a real PgBouncer that pools transactions."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer; apt-get install pgbouncer")
    parts, port = urlsplit(shared_url), free_port()
    folder = server_folder / "pgbouncer"
    folder.mkdir(exist_ok=True)
    (folder / "users").write_text(f'"{parts.username}" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\n"
        "pool_mode = transaction\n"
    )
    user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    with subprocess.Popen(
        [program, "-q", str(folder / "ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
    ) as process:  # type: ignore[call-overload]
        try:
            yield parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
        finally:
            process.terminate()


async def test_a_transaction_pooler(look: Examine, pgbouncer: str, shared_url: str) -> None:
    async def listens() -> bool:
        return (await look(pgbouncer, listen=shared_url))["postgres"].level == "ok"

    await until(listens, "pgbouncer listens")
    found = await look(pgbouncer, listen=shared_url)
    assert "through a transaction pooler" in found["postgres"].found
    assert found["listen"].level == "ok"
    found = await look(pgbouncer)
    assert found["listen"].level == "bad"
    assert "is a transaction pooler" in found["listen"].found
    assert found["rights"].level == "ok"


async def test_listening_to_another_database(look: Examine, postgres: Databases) -> None:
    other = postgres.create()
    found = await look(listen=postgres.url(other), listen_timeout_s=0.5)
    postgres.drop(other)
    assert found["listen"].level == "bad"
    assert "different databases" in found["listen"].found


async def test_the_listening_connection_is_away(look: Examine) -> None:
    found = await look(listen=f"postgresql://127.0.0.1:{free_port()}/app")
    assert found["listen"].level == "bad"
    assert found["rights"].level == "ok"


# Commands that break it, the check, how bad, words of the finding.
REDIS: dict[str, tuple[list[list[str]], str, str, str]] = {
    "it throws keys away": (
        [["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]],
        "redis-memory", "bad", "evicts the whole stream",
    ),
    "it is nearly full": ([["CONFIG", "SET", "maxmemory", "2mb"]], "redis-memory", "warning", "of 2.1 MB in use"),
    "it is full, which is one thing": ([["CONFIG", "SET", "maxmemory", "1"]], "redis-memory", "bad", "in use"),
    "it is full": ([["CONFIG", "SET", "maxmemory", "1"]], "redis-entries", "bad", "OOM"),
    "snapshots only": ([["CONFIG", "SET", "save", "60 1"]], "redis-persistence", "warning", "snapshots only"),
    "nothing is kept": ([], "redis-persistence", "bad", "nothing is kept"),
    "never synced": (
        [["CONFIG", "SET", "appendonly", "yes"], ["CONFIG", "SET", "appendfsync", "no"]],
        "redis-persistence", "warning", "appendfsync no",
    ),
    "no replica": ([], "redis-replicas", "warning", "none"),
    "too few replicas": ([["CONFIG", "SET", "min-replicas-to-write", "1"]], "redis-entries", "bad", "NOREPLICAS"),
    "a key of another type": ([["SET", STREAM, "text"]], "stream", "bad", "is not a stream"),
    "no consumer group": ([["XADD", STREAM, "*", "n", "1"]], "groups", "ok", "no consumer group"),
    "a group that lags": (
        [["XGROUP", "CREATE", STREAM, "billing", "0", "MKSTREAM"], *[["XADD", STREAM, "*", "n", "1"]] * 60],
        "groups", "warning", "group billing has 60 entries to read, 60.0% of MAXLEN 100",
    ),
    "a group about to lose": (
        [["XGROUP", "CREATE", STREAM, "billing", "0", "MKSTREAM"], *[["XADD", STREAM, "*", "n", "1"]] * 95],
        "groups", "bad", "claiming waits for it",
    ),
    "a group nobody reads": (
        [["XGROUP", "CREATE", STREAM, "billing", "0", "MKSTREAM"], ["XADD", STREAM, "*", "n", "1"]],
        "groups", "warning", "it has no consumer",
    ),
    "a stream that expires": (
        [["XADD", STREAM, "*", "n", "1"], ["PEXPIRE", STREAM, "3600000"]],
        "stream", "bad", "expires in 3600 s",
    ),
    "a group that does not acknowledge": (
        [
            ["XGROUP", "CREATE", STREAM, "billing", "0", "MKSTREAM"],
            *[["XADD", STREAM, "*", "n", "1"]] * 60,
            ["XREADGROUP", "GROUP", "billing", "one", "STREAMS", STREAM, ">"],
        ],
        "groups", "warning", "60 read and not acknowledged",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def breakable(server_folder: Path) -> Iterator[str]:
    """A Valkey whose settings are changed by the tests, and put back."""
    with EmbeddedValkey(server_folder / "doctor") as server:
        yield server.url


@asynccontextmanager
async def broken(url: str, commands: list[list[str]]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(url, decode_responses=True))
        stack.push_async_callback(redis.delete, STREAM)
        for command in commands:
            if command[:2] == ["CONFIG", "SET"]:
                before: Any = await redis.config_get(command[2])
                stack.push_async_callback(redis.config_set, command[2], before[command[2]])
            await redis.execute_command(*command)  # type: ignore[no-untyped-call]
        yield


@pytest.mark.parametrize("case", REDIS)
async def test_redis(case: str, look: Examine, breakable: str) -> None:
    commands, check, level, words = REDIS[case]
    async with broken(breakable, commands):
        found = (await look(redis=breakable, redis_full=0.1))[check]
    assert (found.level, found.check) == (level, check)
    assert words in found.found
    assert (found.remedy is None) == (level == "ok")


@pytest.mark.parametrize(
    ("denied", "check", "level", "words"),
    [
        ("-xadd", "redis-entries", "bad", "NOPERM"),
        ("-xrange", "redis-rights", "bad", "XRANGE is forbidden"),
        ("-client|kill", "redis-rights", "bad", "CLIENT KILL is forbidden"),
        ("-xinfo", "groups", "unknown", "NOPERM"),
        ("-xlen", "stream", "unknown", "NOPERM"),
        ("-info", "redis-memory", "unknown", "INFO tells no"),
        ("-config", "redis-persistence", "warning", "snapshots only"),
    ],
)
async def test_rights_in_redis(denied: str, check: str, level: str, words: str, look: Examine, breakable: str) -> None:
    async with Redis.from_url(breakable) as redis:
        await redis.execute_command("ACL", "SETUSER", "shy", "reset", "on", ">hunter2", "~*", "+@all", denied)  # type: ignore[no-untyped-call]
        found = (await look(redis=breakable.replace("redis://", "redis://shy:hunter2@")))[check]
        await redis.acl_deluser("shy")
    assert found.level == level
    assert words in found.found


def test_only_the_refusal_of_that_very_entry_shows_that_entries_are_taken() -> None:
    refused = redis_server.RedisFacts({}, {"XADD": Refused("CLUSTERDOWN Hash slot not served")}, None)
    found = redis_server._entries(refused, STREAM)
    assert (found.level, found.found) == ("bad", "it takes no entry: CLUSTERDOWN")


# Commands of Redis, or lines of its configuration; what it says then; a part of what to do.
NO_ENTRY: dict[str, tuple[list[str], list[str], str, str]] = {
    "it is full": (["CONFIG", "SET", "maxmemory", "1"], [], "OOM", "give Redis memory"),
    "too few replicas": (["CONFIG", "SET", "min-replicas-to-write", "1"], [], "NOREPLICAS", "`min-replicas-to-write`"),
    "it knows no streams": ([], ['rename-command XADD ""'], "ERR unknown command", "undo `rename-command`"),
}


@pytest.mark.parametrize("case", NO_ENTRY)
async def test_a_refusal_has_the_remedy_of_the_runbook(
    case: str, look: Examine, own_valkey: StartValkey, tmp_path: Path
) -> None:
    command, lines, says, do = NO_ENTRY[case]
    file = tmp_path / "more.conf"
    file.write_text("".join(f"{line}\n" for line in lines))
    server = own_valkey(options={"include": str(file)})
    if command:
        async with Redis.from_url(server.url) as redis:
            await redis.execute_command(*command)  # type: ignore[no-untyped-call]
    found = (await look(redis=server.url))["redis-entries"]
    assert found.level == "bad"
    assert found.found.startswith(f"it takes no entry: {says}")
    assert found.remedy is not None
    assert do in found.remedy
    assert found.remedy in page("runbook/breaker-open.md")


async def test_redis_is_away_or_refuses_us(look: Examine, breakable: str) -> None:
    away = await look(redis=f"redis://u:hunter2@127.0.0.1:{free_port()}/0")
    assert away["redis"].level == "bad"
    assert away["rights"].level == "ok"
    assert "clocks" not in away
    refused = await look(redis=breakable.replace("redis://", "redis://nobody:hunter2@"))
    assert refused["redis"].level == "bad"
    assert "hunter2" not in repr(away) + repr(refused)


def test_clocks_that_agree_have_no_sign_that_misleads() -> None:
    [found] = judge([("Postgres", 0.0001), ("Redis", 0.0)], 1.0)
    assert "-0.000" not in found.found


async def test_clocks_that_differ(look: Examine, redis_url: str, proxy: StartProxy) -> None:
    through = await proxy(redis_url)
    ahead_s = 5

    def faster() -> Filter:
        def pass_on(direction: Direction, data: bytes) -> bytes:
            later = lambda match: b"server_time_usec:%d" % (int(match[1]) + ahead_s * 1_000_000)  # noqa: E731
            return re.sub(rb"server_time_usec:(\d+)", later, data) if direction == "to_client" else data

        return pass_on

    through.make_filter = faster
    found = (await look(redis=through.via(redis_url), clock_warning_s=1.0))["clocks"]
    assert found.level == "warning"
    assert re.search(r"Redis's clock is \d\.\d+ s ahead of Postgres's", found.found)
    ahead_s = -300
    found = (await look(redis=through.via(redis_url)))["clocks"]
    assert found.level == "bad"
    assert "behind" in found.found


async def test_the_command(command: RunCommand, breakable: str, db: psycopg.AsyncConnection) -> None:
    await db.execute(f"DROP TRIGGER message_outbox_doorbell ON {OUTBOX}")
    await db.execute("ALTER TABLE messaging.unbroken SET LOGGED")
    code, output = await command("doctor", "--json", REDIS_URL=breakable)
    assert code == 1
    answer = json.loads(output)
    assert answer["bad"] == sum(each["level"] == "bad" for each in answer["findings"]) > 0
    assert {"check": "trigger", "level": "warning"}.items() <= next(
        each.items() for each in answer["findings"] if each["check"] == "trigger"
    )
    async with broken(breakable, [["CONFIG", "SET", "appendonly", "yes"]]):
        await db.execute("ALTER TABLE messaging.unbroken SET UNLOGGED")
        code, output = await command("doctor", "--no-trigger", REDIS_URL=breakable)
    assert code == 0
    assert "ok: trigger: " in output
    assert re.search(r"^\d+ ok, \d+ warning$", output, re.MULTILINE)


async def test_strict_counts_what_is_not_ok(command: RunCommand, breakable: str) -> None:
    async with broken(breakable, [["CONFIG", "SET", "appendonly", "yes"]]):
        code, output = await command("doctor", "--strict", REDIS_URL=breakable)
    assert code == 1
    assert re.search(
        r"^notes on the setup .*:\n(    fsync: .*\n)?    redis-replicas: [^\n]*\nok: ", output, re.M
    )  # before all that is ok, which is some fifty lines
    assert output.index("\nok: ") > output.index("notes on the setup")
    assert "warning: redis-replicas" not in output


async def test_it_says_which_guarantees_hold_here(
    command: RunCommand, redis_url: str, db: psycopg.AsyncConnection, redis: "Redis"
) -> None:
    await redis.acl_setuser("blind", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-xrange"])
    await db.execute(f"ALTER TABLE {OUTBOX} DISABLE TRIGGER message_outbox_doorbell")
    try:
        _, output = await command("doctor", "--json", REDIS_URL=redis_url.replace("://", "://blind:secret@"))
    finally:
        await redis.acl_deluser("blind")
    held = {each["name"]: each for each in json.loads(output)["guarantees"]}
    assert (held["wake"]["holds"], held["wake"]["because"]) == ("at a cost", ["trigger"])
    assert (held["lost-reply"]["holds"], held["lost-reply"]["because"]) == ("no", ["redis-rights"])
    assert held["due"]["holds"] == "yes"
    assert held["one-entry"]["because"] == ["fsync"]  # the tests' server


def test_each_guarantee_is_one_of_the_page_and_rests_on_checks_that_are_made() -> None:
    anchors = set(re.findall(r"proofs\.md#([\w-]+)", page("explanation/guarantees.md")))
    assert {each.name for each in GUARANTEES} <= anchors
    folder = Path(guarantees.__file__).parent
    text = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py") if file.name != "guarantees.py")
    made = set(re.findall(r"\b(?:ok|warning|bad|unknown)\(\s*\"([\w-]+)\"|^\s*\(\"([\w-]+)\", ", text, re.MULTILINE))
    names = {name for pair in made for name in pair if name} | {f"try-{trial.name}" for trial in TRIALS}
    for each in GUARANTEES:
        assert set(each.checks) <= names, each.name


def test_of_a_server_that_is_away_nothing_is_known() -> None:
    held = {each.name: each for each in guarantees.judge([bad("redis", "it is away", "start it")], stream=True)}
    assert {each.holds for each in held.values()} == {"not known"}
    full = [bad("redis", "too old", "update it"), bad("redis-entries", "OOM", "free memory")]
    assert {each.name: each for each in guarantees.judge(full, stream=True)}["redis-outage"].holds == "no"


def test_of_several_findings_of_one_check_the_worst_counts() -> None:
    groups = [Finding("groups", "ok", ""), bad("groups", "lags", "start it"), Finding("groups", "warning", "", "")]
    [trimming] = [each for each in guarantees.judge(groups, stream=True) if each.name == "trimming"]
    assert trimming.holds == "no"
    assert "groups" in trimming.because
    assert "redis" in trimming.because  # was not checked at all
