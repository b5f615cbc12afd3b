"""A session's statements are never cut, always end, and leave no connection behind."""

import os
import resource
from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest
from psycopg import sql

from dispatcher.core.errors import Misconfigured, SessionLost
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.service.targets import PostgresTargets
from dispatcher.settings import Settings
from tests.support.postgres import backend_ended


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "lane")
    yield session
    await session.close()


async def sessions_there(db: psycopg.AsyncConnection) -> int:
    cursor = await db.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'dispatcher %'"
    )
    [[count]] = await cursor.fetchall()
    return int(count)


@pytest.mark.both_versions
async def test_it_has_the_settings_that_claims_rely_on(session):
    expected = {
        "synchronous_commit": "off",
        "statement_timeout": "30s",
        "enable_seqscan": "off",
        "enable_sort": "off",
        "application_name": "dispatcher lane test",
        "client_encoding": "UTF8",
        "client_connection_check_interval": "10s",
    }
    for name, value in expected.items():
        assert await session.fetch("SELECT current_setting(%(name)s)", {"name": name}) == [(value,)]


@pytest.mark.both_versions
async def test_options_of_the_users_own_are_kept(database_url):
    session = await connect(PostgresTarget(f"{database_url}?options=-c%20work_mem%3D7MB", "test"), "lane")
    assert await session.fetch("SHOW work_mem") == [("7MB",)]
    assert await session.fetch("SHOW synchronous_commit") == [("off",)]
    await session.close()


async def give(db: psycopg.AsyncConnection, **settings: str) -> None:
    """Every session that begins from now on in this database has these settings, unless it asks for others."""
    [[name]] = await (await db.execute("SELECT current_database()")).fetchall()
    for setting, value in settings.items():
        change = sql.SQL("ALTER DATABASE {} SET {} = {}").format(
            sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)
        )
        await db.execute(change)


async def test_what_the_database_was_given_does_not_count(database_url, db):
    """Nothing may depend on it: not what a settle that waited for an audit sees, not how a time is read back."""
    await give(
        db,
        default_transaction_isolation="serializable",
        idle_session_timeout="1s",
        datestyle="SQL, DMY",
        timezone="Asia/Kolkata",
    )
    session = await connect(PostgresTarget(database_url, "test"), "lane")
    assert await session.fetch("SHOW transaction_isolation") == [("read committed",)]
    assert await session.fetch("SHOW idle_session_timeout") == [("0",)]
    # India's abbreviation is read as Israel's.
    [(written,)] = await session.fetch("SELECT clock_timestamp()::text")
    now = "SELECT %(at)s::timestamptz BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp()"
    assert await session.fetch(now, {"at": written}) == [(True,)]
    await session.close()


@pytest.mark.both_versions
async def test_behind_a_pooler_another_isolation_level_is_told(database_url, db):
    """Only there it cannot be set for a session."""
    reach = PostgresTargets(Settings.load({"DATABASE_URL": database_url, "REDIS_URL": "redis://localhost"}, {}), "test")
    await give(db, default_transaction_isolation="repeatable read")
    direct = await connect(PostgresTarget(database_url, "test"), "lane")
    await reach.check(direct)
    await direct.close()
    pooled = await connect(PostgresTarget(database_url, "test", pooled=True), "lane")
    with pytest.raises(Misconfigured, match="default_transaction_isolation 'repeatable read'"):
        await reach.check(pooled)
    await pooled.close()


async def test_a_statement_is_not_cut_by_a_cancelled_scope(session, db):
    pid = session.backend_pid
    answers = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        answers.append(await session.fetch("SELECT pg_backend_pid() FROM pg_sleep(0.2)"))
    assert answers == [[(pid,)]]  # it ran to its end, under the cancelled scope
    assert not session.closed
    assert await session.fetch("SELECT pg_backend_pid()") == [(pid,)]


async def test_a_statement_that_another_task_runs_is_waited_for_not_mixed(session):
    answers: list[int] = []

    async def ask(number: int) -> None:
        [(answer,)] = await session.fetch("SELECT %(n)s::int FROM pg_sleep(0.01)", {"n": number})
        answers.append(answer)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, number)
    assert sorted(answers) == list(range(20))


async def test_the_server_ends_a_statement_that_takes_too_long(database_url):
    session = await connect(PostgresTarget(database_url, "test", query_timeout_s=3.0), "lane")
    with pytest.raises(psycopg.errors.QueryCanceled):
        await session.fetch("SELECT pg_sleep(30)")
    assert await session.fetch("SELECT 1") == [(1,)]
    await session.close()


@pytest.mark.parametrize("how", ["fetch", "script"])
async def test_a_network_that_swallows_everything_ends_a_statement(database_url, proxy, db, monkeypatch, how):
    through = await proxy(database_url)
    session = await connect(PostgresTarget(through.via(database_url), "test"), "lane")
    monkeypatch.setattr(session, "_deadline_s", 0.1)  # in production two seconds more than the server's own
    through.stall()
    with pytest.raises(SessionLost):
        await (session.fetch("SELECT 1") if how == "fetch" else session.script("SELECT 1; SELECT 2"))
    assert session.closed
    await session.close()


@pytest.mark.parametrize("reset", [False, True])
async def test_a_broken_connection_is_a_lost_session_then_and_after(database_url, proxy, reset):
    through = await proxy(database_url)
    session = await connect(PostgresTarget(through.via(database_url), "test"), "lane")
    through.cut(reset=reset)
    for _ in range(2):
        with pytest.raises(SessionLost):
            await session.fetch("SELECT 1")
    with pytest.raises(SessionLost):
        await session.wait_readable()
    with pytest.raises(SessionLost):
        session.drain_notifications()


async def test_a_refused_statement_is_not_a_lost_session(session):
    with pytest.raises(psycopg.errors.UndefinedTable):
        await session.fetch("SELECT FROM nowhere")
    assert await session.fetch("SELECT 1") == [(1,)]


async def test_a_table_that_was_altered_under_prepared_statements_is_a_lost_session(session, db):
    await db.execute("CREATE TABLE altered (a int)")
    for _ in range(6):
        await session.fetch("SELECT * FROM altered")
    await db.execute("ALTER TABLE altered ADD COLUMN b int")
    with pytest.raises(SessionLost):
        await session.fetch("SELECT * FROM altered")
    assert session.closed


async def test_an_error_is_described_without_the_row_that_failed(session):
    with pytest.raises(psycopg.Error) as caught:
        await session.fetch(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload, status)"
            " VALUES ('t', 'a', '{\"secret\": 1}', 'wrong')"
        )
    assert "secret" in str(caught.value)
    assert describe(caught.value).startswith("CheckViolation 23514: ")
    assert "secret" not in describe(caught.value)


async def test_notifications_arrive_and_waiting_for_them_may_be_cancelled(session, db):
    await session.fetch("LISTEN bell")
    with anyio.move_on_after(0.01):
        await session.wait_readable()
    await db.execute("NOTIFY bell, 'ring'")
    with anyio.fail_after(60):
        while not (notices := session.drain_notifications()):
            await session.wait_readable()
    assert notices == [("bell", "ring", db.info.backend_pid)]
    await db.execute("NOTIFY bell, 'again'")
    await session.fetch("SELECT 1")  # one that comes with a statement's answer is kept too
    with anyio.fail_after(60):
        while not (notices := session.drain_notifications()):
            await session.wait_readable()
    assert [payload for _, payload, _ in notices] == ["again"]


async def test_closing_leaves_no_connection_behind(database_url, db):
    opened = [await connect(PostgresTarget(database_url, "test"), "lane") for _ in range(5)]
    assert await sessions_there(db) == 5
    for each in opened:
        await each.close()
        await each.close()
        await backend_ended(db, each.backend_pid)
    assert await sessions_there(db) == 0


async def test_without_a_descriptor_left_it_hears_and_can_be_cut(database_url, db):
    """Handlers may use them all up: a dispatcher that ends of that is no help, nor a statement that nothing ends."""
    session = await connect(PostgresTarget(database_url, "test"), "control")
    await session.fetch("LISTEN somewhere")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(1)
        with anyio.fail_after(30):
            await db.execute("NOTIFY somewhere")
            while not session.drain_notifications():
                await session.wait_readable()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_ends, session)
                await anyio.wait_all_tasks_blocked()
                session.cut()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await session.close()


async def _ends(session):
    with pytest.raises(SessionLost):
        await session.fetch("SELECT pg_sleep(60)")
