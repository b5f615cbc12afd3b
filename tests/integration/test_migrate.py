"""`migrate`: many at once, adopted databases, changed files, missing rights, busy tables."""

import contextlib
import hashlib
import re
import secrets
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import psycopg
import pytest

from dispatcher import cli
from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.infra import migration_script, sqlfiles
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.tables import made_by, missing
from tests import dump_schema
from tests.support.command import RunCommand
from tests.support.pgbouncer import listens_at, pgbouncer
from tests.support.postgres import Databases
from tests.support.psql import psql
from tests.support.rows import insert_events, one_row
from tests.support.waiting import until

pytestmark = pytest.mark.both_versions

OLD = Path(__file__).parent / "data" / "migrations_d2f425b.sql"
NAMES = [m.name for m in sqlfiles.migrations()]
SECRET = "hunter2hunter2"


async def open_connection(url: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(url, autocommit=True)


async def has_trigger(url: str) -> bool:
    async with await open_connection(url) as connection:
        found = await connection.execute("SELECT FROM pg_trigger WHERE tgname = 'message_outbox_doorbell'")
        return await found.fetchone() is not None


EARLIER_TRIGGER = """
DROP TRIGGER message_outbox_doorbell ON messaging.message_outbox;
CREATE FUNCTION messaging.doorbell_not_rung() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('dispatcher.doorbell', true) IN ('rung', 'off') THEN
        RETURN false;
    END IF;
    RETURN pg_catalog.set_config('dispatcher.doorbell', 'rung', true) IS NOT NULL;
END
$$;
CREATE CONSTRAINT TRIGGER message_outbox_doorbell AFTER INSERT ON messaging.message_outbox
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (messaging.doorbell_not_rung())
    EXECUTE FUNCTION messaging.ring_doorbell();
"""


async def test_applies_everything_once_and_records_it(empty_database_url: str) -> None:
    assert await migrate(empty_database_url) == [*NAMES, "doorbell"]
    assert await migrate(empty_database_url) == []
    async with await open_connection(empty_database_url) as connection:
        rows = await (await connection.execute("SELECT name, checksum FROM messaging.schema_migration")).fetchall()
    files = {m.name: m.sql for m in sqlfiles.migrations()} | {"doorbell": sqlfiles.trigger()}
    assert dict(rows) == {name: hashlib.sha256(sql.encode()).hexdigest() for name, sql in files.items()}


@pytest.mark.promise("migrate")
async def test_many_at_once_apply_every_file(empty_database_url: str) -> None:
    applied: list[str] = []

    async def one() -> None:
        applied.extend(await migrate(empty_database_url))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(one)
    # One that applied a file applies those after it once more: an older function never stays over a newer one.
    assert sorted(set(applied)) == sorted([*NAMES, "doorbell"])
    assert applied.count(NAMES[0]) == 1


async def test_the_trigger_is_left_out_on_request_and_added_later(empty_database_url: str) -> None:
    assert await migrate(empty_database_url, trigger=False) == NAMES
    assert not await has_trigger(empty_database_url)
    assert await migrate(empty_database_url) == ["doorbell"]
    assert await has_trigger(empty_database_url)


async def test_what_was_removed_by_hand_is_put_back(database_url: str) -> None:
    async with await open_connection(database_url) as connection:
        await connection.execute(sqlfiles.trigger_down())
        await connection.execute("DROP TABLE messaging.message_dlq CASCADE")  # the view too
        gone = {"message_dlq", "dead_event view"}
        lacking = [m.name for m in sqlfiles.migrations() if gone & {made.split(".")[0] for made in made_by(m.sql)}]
        assert lacking[0] == NAMES[0]
        assert await missing(connection) == lacking  # what made it, and what gave it a column
    assert await migrate(database_url) == [*NAMES, "doorbell"]  # a later file goes over the functions of an earlier one
    assert await has_trigger(database_url)


async def test_a_database_made_by_plain_sql_is_adopted_with_its_rows(empty_database_url: str) -> None:
    async with await open_connection(empty_database_url) as connection:
        for _ in range(2):  # as `psql -f` may, any number of times
            for migration in sqlfiles.migrations():
                await connection.execute(migration.sql)
            await connection.execute(sqlfiles.trigger())
        await connection.execute(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('a', 'b', '{}')"
        )
        await migrate(empty_database_url)
        assert await migrate(empty_database_url) == []
        count = await connection.execute("SELECT count(*) FROM messaging.message_outbox")
        assert await count.fetchone() == (1,)


async def test_a_half_made_database_is_completed(empty_database_url: str) -> None:
    async with await open_connection(empty_database_url) as connection:
        await connection.execute(sqlfiles.migrations()[0].sql)
        await connection.execute("DROP INDEX messaging.message_outbox_due_idx")
        await migrate(empty_database_url)
        index = await connection.execute("SELECT to_regclass('messaging.message_outbox_due_idx') IS NOT NULL")
        assert await index.fetchone() == (True,)


async def test_missing_says_what_is_not_there(empty_database_url: str) -> None:
    async with await open_connection(empty_database_url) as connection:
        assert await missing(connection) == NAMES
        await connection.execute(sqlfiles.migrations()[0].sql)  # without any bookkeeping
        first = made_by(sqlfiles.migrations()[0].sql)  # a later file may only change what that made
        assert await missing(connection) == [m.name for m in sqlfiles.migrations() if not made_by(m.sql) <= first]
        await migrate(empty_database_url)
        await connection.execute("DROP INDEX messaging.message_outbox_time_idx")  # a dispatcher runs without it
        assert await missing(connection) == []
        await connection.execute("DROP PROCEDURE messaging.prune_message_dlq")
        assert await missing(connection) == [m.name for m in sqlfiles.migrations() if "prune_message_dlq" in m.sql]
        assert await migrate(empty_database_url) == NAMES


def old_migrations() -> list[tuple[str, str, str]]:
    """Name, checksum and SQL of each migration of d2f425b."""
    found = re.findall(
        r"^--- (\w+) (\w+)\n(.*?)(?=^--- |\Z)", OLD.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [(name, checksum, statements) for name, checksum, statements in found]


async def make_old_database(connection: psycopg.AsyncConnection, *, files: int, recorded: bool) -> None:
    """As d2f425b left it after its first `files` migrations, with rows in it, after a crash that emptied `unbroken`."""
    for name, checksum, statements in old_migrations()[:files]:
        await connection.execute(statements.encode())
        if recorded:
            await connection.execute(migration_script.BOOKKEEPING.encode())
            await connection.execute(
                "INSERT INTO messaging.schema_migration (name, checksum) VALUES (%s, %s)", [name, checksum]
            )
    for status in ("pending", "picked", "retry", "sent", "dead"):
        await insert_events(connection, 3, status=status, picked_at="2025-06-01 00:00:00+00")
    if files == 6:
        await connection.execute("UPDATE messaging.newest_entry SET stream_id = '5-5'; DELETE FROM messaging.unbroken")


@pytest.mark.parametrize("recorded", [True, False], ids=["migrated", "plain psql"])
@pytest.mark.parametrize("files", range(1, 7))
async def test_a_database_of_the_six_files_becomes_one_of_the_one_file(
    empty_database_url: str, files: int, recorded: bool
) -> None:
    # slot: another hash, see 20251201_slot_without_md5.sql. stream: a new column, see 20261201_streams.sql.
    rows = "SELECT to_jsonb(o) - '{slot,stream}'::text[] FROM messaging.message_outbox AS o ORDER BY o.id"
    async with await open_connection(empty_database_url) as connection:
        await make_old_database(connection, files=files, recorded=recorded)
        before = await (await connection.execute(rows)).fetchall()
        assert len(before) == 15
        assert await migrate(empty_database_url) == [*NAMES, "doorbell"]
        assert await migrate(empty_database_url) == []
        assert await (await connection.execute(rows)).fetchall() == before
        notes = "SELECT stream_id, (SELECT count(*) FROM messaging.unbroken) FROM messaging.newest_entry"
        expected = ("5-5", 0) if files == 6 else ("0-0", 1)  # it must still say that claims may be lost
        assert await (await connection.execute(notes)).fetchall() == [expected]
    fresh = dump_schema.SCHEMA.read_text(encoding="utf-8")
    assert columns_sorted(dump_schema.dump(empty_database_url)) == columns_sorted(fresh)


def columns_sorted(schema: str) -> list[str]:
    """The lines, columns of the outbox in one order: a table that is there already keeps its own."""
    before, table, rest = schema.partition("CREATE TABLE messaging.message_outbox (\n")
    columns, closing, after = rest.partition("\n)\n")
    of_columns = "COMMENT ON COLUMN messaging.message_outbox."
    comments = sorted(line for line in after.splitlines() if line.startswith(of_columns))
    others = [line for line in after.splitlines() if not line.startswith(of_columns)]
    return [before, table, *sorted(line.rstrip(",") for line in columns.splitlines()), closing, *comments, *others]


async def test_writers_go_on_while_a_database_of_the_six_files_is_migrated(empty_database_url: str) -> None:
    async with (
        await open_connection(empty_database_url) as connection,
        await open_connection(empty_database_url) as writer,
    ):
        await make_old_database(connection, files=6, recorded=True)
        await writer.execute("SET lock_timeout = '20s'")
        migrated = anyio.Event()

        async def migrate_meanwhile() -> None:
            await migrate(empty_database_url)
            migrated.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(migrate_meanwhile)
            while not migrated.is_set():
                await insert_events(writer)
                await writer.execute("UPDATE messaging.message_outbox SET claim_id = gen_random_uuid() WHERE id = 1")
        assert await missing(connection) == []


@pytest.mark.parametrize("checksum", migration_script._REPLACED[NAMES[0]])
async def test_a_database_of_a_file_that_was_replaced_gets_all_files_once_more(
    database_url: str, checksum: str
) -> None:
    async with await open_connection(database_url) as connection:
        await connection.execute(
            "UPDATE messaging.schema_migration SET checksum = %s WHERE name = %s", [checksum, NAMES[0]]
        )
    assert await migrate(database_url) == NAMES
    assert await migrate(database_url) == []


async def test_a_changed_released_file_is_refused_by_name(database_url: str) -> None:
    async with await open_connection(database_url) as connection:
        await connection.execute(
            "UPDATE messaging.schema_migration SET checksum = repeat('0', 64) WHERE name = %s", [NAMES[0]]
        )
    with pytest.raises(Misconfigured, match=f"{NAMES[0]} was applied to this database with other contents"):
        await migrate(database_url)


async def test_a_changed_trigger_file_is_applied_again(database_url: str) -> None:
    async with await open_connection(database_url) as connection:
        await connection.execute("UPDATE messaging.schema_migration SET checksum = 'older' WHERE name = 'doorbell'")
    assert await migrate(database_url) == ["doorbell"]


async def test_a_doorbell_with_a_condition_is_replaced(database_url: str) -> None:
    """Earlier ones had one; a trigger that is there already is otherwise left alone."""
    async with await open_connection(database_url) as connection:
        await connection.execute("DROP TRIGGER message_outbox_doorbell ON messaging.message_outbox")
        await connection.execute(
            "CREATE FUNCTION messaging.doorbell_not_rung() RETURNS boolean LANGUAGE sql AS 'SELECT true';"
            "CREATE CONSTRAINT TRIGGER message_outbox_doorbell AFTER INSERT ON messaging.message_outbox DEFERRABLE"
            " INITIALLY DEFERRED FOR EACH ROW WHEN (messaging.doorbell_not_rung())"
            " EXECUTE FUNCTION messaging.ring_doorbell();"
            "UPDATE messaging.schema_migration SET checksum = 'older' WHERE name = 'doorbell'"
        )
        assert await migrate(database_url) == ["doorbell"]
        left = await connection.execute(
            "SELECT tgqual, to_regproc('messaging.doorbell_not_rung') FROM pg_trigger"
            " WHERE tgname = 'message_outbox_doorbell'"
        )
        assert await left.fetchall() == [(None, None)]


async def test_who_inserted_under_an_earlier_trigger_rings_under_the_new_function(database_url: str) -> None:
    """With plain psql each statement of the file is there at once, while the trigger waits for those who write."""
    function = sqlfiles.trigger().partition("DO $$")[0]
    async with (
        await open_connection(database_url) as sleeper,
        await open_connection(database_url) as connection,
        await open_connection(database_url) as writer,
    ):
        await connection.execute(EARLIER_TRIGGER)
        await sleeper.execute("LISTEN outbox_doorbell")
        await sleeper.execute("SELECT pg_advisory_lock(1869968482, 1)")
        async with writer.transaction():
            await insert_events(writer)
            await connection.execute(function.encode())
        with anyio.fail_after(60):
            async for notice in sleeper.notifies(stop_after=1):
                assert notice.channel == "outbox_doorbell"


async def test_a_failed_file_leaves_nothing_behind(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = sqlfiles.MigrationFile("99990101_bad", "CREATE TABLE IF NOT EXISTS messaging.half (id int); SELECT 1 / 0")
    monkeypatch.setattr(sqlfiles, "migrations", lambda: (bad,))
    with pytest.raises(DispatcherError, match="99990101_bad failed: DivisionByZero 22012"):
        await migrate(empty_database_url)
    async with await open_connection(empty_database_url) as connection:
        there = await connection.execute("SELECT to_regclass('messaging.half'), to_regnamespace('messaging')")
        assert await there.fetchone() == (None, None)


async def test_a_table_of_the_same_name_and_another_shape_is_pointed_out(empty_database_url: str) -> None:
    async with await open_connection(empty_database_url) as connection:
        await connection.execute("CREATE SCHEMA messaging CREATE TABLE message_outbox (id bigint PRIMARY KEY)")
    with pytest.raises(Misconfigured, match="was not made by these migrations"):
        await migrate(empty_database_url)


WAITING = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'messaging.message_outbox'::regclass"


async def until_migrate_waits(watcher: psycopg.AsyncConnection) -> None:
    await until(lambda: one_row(watcher, WAITING), "migrate waits for the lock")


@pytest.mark.promise("migrate")
async def test_a_table_that_stays_busy_is_reported_and_writers_are_not_held_up(database_url: str) -> None:
    insert = "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('a', 'b', '{}')"
    failures: list[DispatcherError] = []

    async def migrate_in_vain() -> None:
        with pytest.raises(DispatcherError, match=r"could not lock messaging\.message_outbox in 2 tries") as caught:
            await migrate(database_url, lock_tries=2)
        failures.append(caught.value)

    async with await open_connection(database_url) as holder, await open_connection(database_url) as writer:
        await writer.execute(sqlfiles.trigger_down())
        async with holder.transaction():
            await holder.execute(insert)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(migrate_in_vain)
                await until_migrate_waits(writer)
                await writer.execute("SET lock_timeout = '60s'")
                await writer.execute(insert)  # queued behind the waiting CREATE TRIGGER, which soon steps back
    assert [failure.exit_code for failure in failures] == [1]
    assert await migrate(database_url) == ["doorbell"]


async def test_a_table_that_falls_free_is_migrated(database_url: str) -> None:
    async with await open_connection(database_url) as holder, await open_connection(database_url) as watcher:
        await watcher.execute(sqlfiles.trigger_down())
        async with anyio.create_task_group() as tasks, holder.transaction():
            await holder.execute("LOCK TABLE messaging.message_outbox IN ROW EXCLUSIVE MODE")
            tasks.start_soon(migrate, database_url)
            await until_migrate_waits(watcher)
    assert await has_trigger(database_url)


async def test_a_role_without_rights_is_told_which(empty_database_url: str, postgres: Databases) -> None:
    role = f"dispatcher_test_poor_{secrets.token_hex(4)}"  # roles belong to the whole server
    async with await open_connection(empty_database_url) as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
        try:
            with pytest.raises(Misconfigured) as caught:
                await migrate(as_role(empty_database_url, role))
            said = str(caught.value)
            assert said.startswith(f"role {role} may not migrate: it lacks CREATE on the database (permission denied")
            assert f"GRANT CREATE ON DATABASE {connection.info.dbname} TO {role}; or let " in said
            assert SECRET not in said
            await connection.execute(f"CREATE SCHEMA messaging AUTHORIZATION {role}")
            assert await migrate(as_role(empty_database_url, role)) == [*NAMES, "doorbell"]  # needs no CREATE any more
        finally:
            await connection.execute(f"DROP OWNED BY {role} CASCADE")
            await connection.execute(f"DROP ROLE {role}")


async def test_a_role_that_does_not_own_the_tables_is_told_who_does(database_url: str) -> None:
    role = f"dispatcher_test_poor_{secrets.token_hex(4)}"
    async with await open_connection(database_url) as connection:
        owner = connection.info.user
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
        try:
            for right in ("", f"GRANT ALL ON SCHEMA messaging TO {role}"):
                await connection.execute(right)
                with pytest.raises(Misconfigured) as caught:
                    await migrate(as_role(database_url, role))
                assert f"belongs to {owner} (permission denied for " in str(caught.value)
                assert f"Migrate as {owner}, or GRANT {owner} TO {role}." in str(caught.value)
        finally:
            await connection.execute(f"DROP OWNED BY {role} CASCADE")
            await connection.execute(f"DROP ROLE {role}")


def as_role(url: str, role: str) -> str:
    return psycopg.conninfo.make_conninfo(url, user=role, password=SECRET)


async def test_a_read_only_database_is_told_apart(empty_database_url: str) -> None:
    with pytest.raises(Misconfigured, match="read-only"):
        await migrate(psycopg.conninfo.make_conninfo(empty_database_url, options="-c default_transaction_read_only=on"))


async def test_a_database_without_an_encoding_is_refused(postgres: Databases, empty_database_url: str) -> None:
    name = f"{psycopg.conninfo.conninfo_to_dict(empty_database_url)['dbname']}_ascii"
    async with await open_connection(empty_database_url) as connection:
        await connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    try:
        with pytest.raises(Misconfigured, match="UTF8"):
            await migrate(postgres.url(name))
    finally:
        postgres.drop(name)


@pytest.mark.promise("secrets")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"dbname": "no_such_database"}, Misconfigured, "does not exist"),
        ({"user": "no_such_role"}, Misconfigured, "refused the connection"),
        ({"port": "1"}, Unreachable, "nothing listens"),
        ({"host": "no-such-host.invalid"}, Unreachable, "cannot be resolved"),
    ],
)
async def test_a_wrong_target_is_explained_without_its_password(
    database_url: str, change: dict[str, str], error: type[DispatcherError], words: str
) -> None:
    conninfo = psycopg.conninfo.make_conninfo(database_url, password=SECRET, **change)
    with pytest.raises(error, match=words) as caught:
        await migrate(conninfo, connect_timeout_s=60)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
async def test_the_timeouts_of_a_role_do_not_end_the_wait_for_its_turn(
    empty_database_url: str, server_folder: Path, pooled: bool
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(empty_database_url)["dbname"]
    limits = ("transaction_timeout", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as other:
        known = "SELECT name FROM pg_settings WHERE name = ANY(%s)"  # transaction_timeout: since 17
        for (limit,) in await (await other.execute(known, (list(limits),))).fetchall():
            await other.execute(f"ALTER DATABASE {name} SET {limit} = '2s'")
        await other.execute(f"SELECT pg_advisory_lock({locks.MIGRATION})")

        async def waits_long() -> bool:
            cursor = await other.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory' "
                "AND clock_timestamp() - query_start > interval '3 s'"
            )
            return cursor.rowcount == 1

        with ExitStack() as stack:
            url = empty_database_url
            if pooled:
                folder = server_folder / f"pgbouncer-{name}"
                url = stack.enter_context(pgbouncer(folder, empty_database_url, user="postgres"))
                await until(partial(listens_at, url), "the pooler listens")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(migrate, url)
                await until(waits_long, "it waits for its turn")
                await other.execute(f"SELECT pg_advisory_unlock({locks.MIGRATION})")
            assert await migrate(url) == []


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


TELLS_ITS_VERSION = (
    message(b"R", bytes(4))
    + message(b"S", b"server_version\x0013.21\0")
    + message(b"K", bytes(8))
    + message(b"Z", b"I")
)


async def test_a_server_that_is_too_old_is_refused() -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(TELLS_ITS_VERSION)
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()  # until the client leaves

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 -- not Django
        with pytest.raises(Misconfigured, match="PostgreSQL 14 or later is needed"):
            await migrate(f"postgresql://u:{SECRET}@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable")
        tasks.cancel_scope.cancel()


def test_the_command_says_what_it_did(empty_database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for expected in ([*(f"applied {name}" for name in NAMES)], ["already up to date"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["migrate", "--no-trigger", "--dsn", empty_database_url])
        assert caught.value.code == 0
        assert capsys.readouterr().out.splitlines() == expected


def test_every_migration_is_found_and_guarded() -> None:
    files = sorted((Path(__file__).parents[2] / "sql" / "migrations").iterdir())
    assert [path.name for path in files] == [f"{name}.sql" for name in NAMES]
    assert NAMES[0] == "20250203_message_outbox"  # the runbook's name for it
    assert all(made_by(m.sql) for m in sqlfiles.migrations())  # else missing() cannot see it


def test_an_unknown_statement_is_a_clear_error() -> None:
    with pytest.raises(Misconfigured, match=r"cannot read the SQL file nonsense\.sql"):
        sqlfiles.load("nonsense")


async def test_an_older_release_leaves_the_tables_of_a_newer_one_alone(database_url: str, command: RunCommand) -> None:
    """As its job does that was left behind, or after a rollback."""
    async with await open_connection(database_url) as connection:
        await connection.execute("INSERT INTO messaging.schema_migration VALUES ('29991231_later', 'x')")
        await connection.execute("UPDATE messaging.schema_migration SET checksum = 'newer' WHERE name = 'doorbell'")
        await connection.execute(
            "CREATE OR REPLACE FUNCTION messaging.ring_doorbell() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END'"
        )
        code, output = await command("migrate")
        said = "dispatcher: warning: the tables are those of a newer release (29991231_later): nothing was changed"
        assert (code, sorted(output.splitlines())) == (0, ["already up to date", said])
        [(body,)] = await (
            await connection.execute("SELECT prosrc FROM pg_proc WHERE proname = 'ring_doorbell'")
        ).fetchall()
        assert body == "BEGIN RETURN NULL; END"
        await connection.execute("DROP TABLE messaging.pause_acknowledgement")
        code, output = await command("migrate")
        assert code == 2
        assert "run `dispatcher migrate` of that release" in output


async def test_an_index_that_an_interrupted_build_left_is_named(database_url: str, command: RunCommand) -> None:
    async with await open_connection(database_url) as connection:
        await connection.execute("DROP INDEX messaging.message_outbox_dead_idx")
        await insert_events(connection, 1)
        with pytest.raises(psycopg.errors.DivisionByZero):  # the build ends in the middle, as by a kill
            await connection.execute(
                "CREATE INDEX CONCURRENTLY message_outbox_dead_idx ON messaging.message_outbox ((1 / (id - id)))"
            )
        code, output = await command("migrate")
        assert code == 0
        assert "warning: the index messaging.message_outbox_dead_idx is not valid, so it is not used: " in output
        assert "REINDEX INDEX CONCURRENTLY messaging.message_outbox_dead_idx" in output


async def test_what_is_printed_makes_the_same_database(empty_database_url: str, command: RunCommand) -> None:
    code, printed = await command("migrate", "--print")
    assert code == 0
    for _ in range(2):
        psql(empty_database_url, text=printed)
    assert await migrate(empty_database_url) == []
    assert await has_trigger(empty_database_url)
    _, without = await command("migrate", "--print", "--no-trigger")
    assert f"VALUES ('{migration_script.TRIGGER}'" in printed
    assert f"VALUES ('{migration_script.TRIGGER}'" not in without


async def test_roles_are_printed_where_it_is_installed(database_url: str, command: RunCommand) -> None:
    code, printed = await command("sql", "roles")
    assert (code, printed) == (0, sqlfiles.roles())
    psql(database_url, text=printed)
    psql(database_url, text=(await command("sql", "handled-event"))[1])
    async with await open_connection(database_url) as connection:
        found = await connection.execute("SELECT to_regclass('handled_event') IS NOT NULL")
        assert await found.fetchone() == (True,)
