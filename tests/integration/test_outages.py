"""dispatcher.core.outages, by what real servers say, through each driver and what wraps it."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
import redis as sync
import sqlalchemy as sa
from django.db import DatabaseError, connections
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from dispatcher.core.outages import (
    is_never_readable,
    is_outage,
    is_wrong_server,
    needs_a_person,
    passes_by_itself,
    reply_of,
)
from dispatcher.embedded.ports import free_port
from tests.support.redis import StartValkey

SELECT_SLOWLY = "SELECT pg_sleep(60)"
# Name: statements of one session, the last of which fails; whether the server is away.
POSTGRES = {
    "ended by an administrator": (["SELECT pg_terminate_backend(pg_backend_pid())"], True),
    "read-only": (["SET default_transaction_read_only = on", "COMMIT", "CREATE TABLE a ()"], True),
    "its own slow query": (["SET statement_timeout = '10ms'", SELECT_SLOWLY], False),
    "a value": (["SELECT 1/0"], False),
    "a lock that another has": (["SET lock_timeout = '1ms'", "LOCK wanted"], False),
    "a missing table": (["SELECT FROM nowhere"], False),
}
Fail = Callable[[str, list[str]], Awaitable[None]]


async def by_psycopg(url: str, statements: list[str]) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


async def by_psycopg_async(url: str, statements: list[str]) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for statement in statements:
            await connection.execute(statement)


async def by_psycopg2(url: str, statements: list[str]) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()


async def by_asyncpg(url: str, statements: list[str]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in ["BEGIN", *statements]:
            await connection.execute(statement)
    finally:
        await connection.close()


def by_sqlalchemy(driver: str) -> Fail:
    async def fail(url: str, statements: list[str]) -> None:
        engine = sa.create_engine(url.replace("postgresql:", f"postgresql+{driver}:", 1), poolclass=NullPool)
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    return fail


async def by_sqlalchemy_asyncpg(url: str, statements: list[str]) -> None:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(sa.text(statement))


DRIVERS = {
    "psycopg": by_psycopg,
    "psycopg, asyncio": by_psycopg_async,
    "psycopg2": by_psycopg2,
    "asyncpg": by_asyncpg,
    "SQLAlchemy, psycopg": by_sqlalchemy("psycopg"),
    "SQLAlchemy, psycopg2": by_sqlalchemy("psycopg2"),
    "SQLAlchemy, asyncpg": by_sqlalchemy_asyncpg,
}


async def failure(work: Awaitable[object]) -> Exception:
    try:
        await work
    except Exception as error:
        return error
    raise AssertionError("nothing failed")


@pytest.mark.parametrize("fail", DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize(("statements", "away"), POSTGRES.values(), ids=POSTGRES)
async def test_postgres_is_away_or_refuses_this_statement(
    fail: Fail, statements: list[str], away: bool, empty_database_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database_url) as other:
        await other.execute("CREATE TABLE wanted ()")
        await other.commit()
        await other.execute("LOCK wanted")
        error = await failure(fail(empty_database_url, statements))
    assert is_outage(error) is away, repr(error)
    assert is_outage(ExceptionGroup("of a TaskGroup", [error])) is away
    assert not is_outage(ExceptionGroup("of a TaskGroup", [error, LookupError()]))


@pytest.mark.parametrize("fail", DRIVERS.values(), ids=DRIVERS)
async def test_nobody_listens_there(fail: Fail) -> None:
    assert is_outage(await failure(fail(f"postgresql://u@127.0.0.1:{free_port()}/d", ["SELECT 1"])))


def test_the_same_in_django(django_alias: str) -> None:
    def fail(statement: str) -> Exception:
        with pytest.raises(DatabaseError) as failed, connections[django_alias].cursor() as cursor:
            cursor.execute(statement)
        error: Exception = failed.value
        return error

    assert not is_outage(fail("SELECT 1/0"))
    assert not is_outage(fail("SET statement_timeout = '10ms'; SELECT pg_sleep(60)"))
    assert is_outage(fail("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert is_outage(fail("SELECT 1"))  # the connection is gone, which no server says


def refusal(url: str, *command: Any) -> str:
    """What Redis answers."""
    with sync.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as redis, pytest.raises(sync.RedisError) as failed:
        redis.execute_command(*command)
    reply = reply_of(failed.value)
    assert reply is not None, failed.value
    # An application that gets the error itself judges alike.
    assert is_outage(failed.value) == (passes_by_itself(reply) or needs_a_person(reply))
    return reply


XADD = ("XADD", "s", "*", "k", "v")


def test_what_passes_by_itself(own_valkey: StartValkey) -> None:
    url = own_valkey(options={"lua-time-limit": "1"}).url
    with sync.Redis.from_url(url) as admin:
        replies = []
        for name, value, back in (("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")):
            admin.config_set(name, value)
            replies.append(refusal(url, *XADD))
            admin.config_set(name, back)
        admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
        replies.append(refusal(url, *XADD))
        admin.config_set("replica-serve-stale-data", "no")
        replies.append(refusal(url, "XRANGE", "s", "-", "+"))
    codes = [reply.partition(" ")[0] for reply in replies]
    assert codes == ["OOM", "NOREPLICAS", "READONLY", "MASTERDOWN"]
    assert all(passes_by_itself(reply) and not needs_a_person(reply) for reply in replies)
    assert [is_wrong_server(reply) for reply in replies] == [False, True, True, True]
    assert not any(is_never_readable(reply) for reply in replies)


def test_a_script_that_runs_for_long(own_valkey: StartValkey) -> None:
    url = own_valkey(options={"lua-time-limit": "1"}).url
    with sync.Redis.from_url(url) as admin, sync.Redis.from_url(url, socket_timeout=60) as script:
        connection = script.connection_pool.get_connection()
        connection.send_command("EVAL", "while true do end", 0)
        while True:
            try:
                admin.ping()
            except sync.ResponseError:
                break
        reply = refusal(url, *XADD)
        assert reply.startswith("BUSY ")
        assert passes_by_itself(reply)
        assert not is_wrong_server(reply)
        admin.script_kill()
        connection.disconnect()


def test_what_lasts_until_a_person_acts(own_valkey: StartValkey) -> None:
    url = own_valkey().url
    with sync.Redis.from_url(url) as admin:
        admin.set("s", "")
        admin.acl_setuser("app", enabled=True, passwords="+right", keys="*", commands=["+@all", "-xadd", "-xrange"])
        others = url.replace("redis://", "redis://app:right@")
        replies = [
            refusal(url, *XADD),
            refusal(others, *XADD),
            refusal(others, "XRANGE", "s", "-", "+"),
            refusal(url, "NOTHING"),
            refusal(url.replace("redis://", "redis://app:wrong@"), "PING"),
        ]
        admin.config_set("requirepass", "secret")
        replies.append(refusal(url, *XADD))
    codes = ["WRONGTYPE", "NOPERM", "NOPERM", "ERR", "WRONGPASS", "NOAUTH"]
    assert [reply.partition(" ")[0] for reply in replies] == codes
    assert all(needs_a_person(reply) and not passes_by_itself(reply) for reply in replies)
    assert [is_never_readable(reply) for reply in replies] == [True, True, True, True, False, False]


def test_what_is_the_entrys_own(redis_url: str) -> None:
    for command in (("XADD", "s", "*", "k"), ("XADD", "s", "nonsense", "k", "v"), ("XLEN",)):
        reply = refusal(redis_url, *command)
        assert not passes_by_itself(reply)
        assert not needs_a_person(reply)
        assert not is_wrong_server(reply)


def test_nothing_answers() -> None:
    with (
        sync.Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as redis,
        pytest.raises(sync.ConnectionError) as away,
    ):
        redis.ping()
    assert reply_of(away.value) is None
    assert is_outage(away.value)
