"""Statements on libpq itself: what a value becomes, what is refused, what is left when one fails."""

from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import anyio
import psycopg
import pytest

from dispatcher.core.errors import SessionLost
from dispatcher.core.row import HandlerMark
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from tests.support.waiting import until

pytestmark = pytest.mark.both_versions
AT = datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)


@pytest.fixture
async def session(database_url):
    opened = await connect(PostgresTarget(database_url, "test"), "test")
    yield opened
    await opened.close()


async def works(db, session):
    """Whether the server is at a statement of it."""
    asked = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND wait_event IN ('PgSleep', 'advisory')"
    return (await db.execute(asked, (session.backend_pid,))).rowcount == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", 'a "b" \\ {c}, %d é\U0001f40b'),
        ("text", ""),
        ("text", HandlerMark.BEGUN),
        ("text", None),
        ("bigint", -(2**63)),
        ("double precision", 0.1),
        ("boolean", True),
        ("timestamptz", AT),
        ("timestamp", AT.replace(tzinfo=None)),
        ("bigint[]", [1, -2, 2**40]),
        ("bigint[]", []),
        ("double precision[]", [0.5, 1e300]),
        ("text[]", ['a "b" \\ {c}, ', "NULL", None, "", "é"]),
        ("text[]", [None]),
        ("boolean[]", [True, False]),
    ],
)
async def test_a_value_comes_back_as_it_went(session, kind, value):
    for _ in range(2):  # when it is prepared, and after
        assert await session.fetch(f"SELECT %(value)s::{kind} AS value", {"value": value}) == [(value,)]


async def test_one_parameter_twice_a_percent_sign_and_a_kind_for_psycopg(session):
    given = {"a": "x", "b": 3, "c": uuid4()}
    assert await session.fetch("SELECT %(b)s::int %% 2, %(a)s || %(a)s, %(b)s::int", given) == [(1, "xx", 3)]
    assert await session.fetch("SELECT %(c)s::uuid, %(a)s::text", given) == [(given["c"], "x")]


async def test_text_that_would_end_at_a_nul_is_refused(session):
    for value in ("a\0b", ["a\0b"]):
        with pytest.raises(psycopg.DataError, match="NUL"):
            await session.fetch("SELECT %(value)s::text", {"value": value})
    assert await session.fetch("SELECT 1") == [(1,)]


async def test_more_than_the_socket_takes_at_once(session):
    large = "x" * 20_000_000
    [(back,)] = await session.fetch("SELECT %(value)s::text", {"value": large})
    assert back == large


async def test_what_fails_leaves_the_session_as_it_was(session):
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await session.fetch("SELECT 1 / %(value)s::int", {"value": 0})
        with pytest.raises(psycopg.errors.SyntaxError):
            await session.fetch("SELEC 1")
        assert await session.fetch("SELECT 1 / %(value)s::int", {"value": 1}) == [(1,)]
    await session.script("BEGIN; SELECT 1; ROLLBACK")
    assert await session.fetch("SELECT 1 / %(value)s::int", {"value": 1}) == [(1,)]


async def test_a_statement_ends_though_its_caller_is_cancelled(session, db):
    await db.execute("CREATE TABLE written (at int)")
    await db.execute("SELECT pg_advisory_lock(1)")

    async def write() -> None:
        await session.fetch("WITH w AS (INSERT INTO written VALUES (1)) SELECT pg_advisory_xact_lock(1)")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await until(partial(works, db, session), "the statement works")
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await db.execute("SELECT pg_advisory_unlock(1)")
    assert await (await db.execute("SELECT at FROM written")).fetchall() == [(1,)]
    assert await session.fetch("SELECT 1") == [(1,)]


async def test_the_end_of_the_server_process_is_told_in_its_words(session, db):
    async def terminate() -> None:
        await until(partial(works, db, session), "the statement works")
        await db.execute("SELECT pg_terminate_backend(%s)", (session.backend_pid,))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(terminate)
        with pytest.raises(SessionLost, match="AdminShutdown"):
            await session.fetch("SELECT pg_sleep(25)")
    assert session.closed
