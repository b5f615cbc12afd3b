"""A connection that cannot be made is told in plain words: what is wrong, where, and no password."""

import asyncio
import gc
import os
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import waiting
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dispatcher.core.errors import Misconfigured, NoConnectionLeft, Unreachable
from dispatcher.embedded import free_port
from dispatcher.infra.postgres import connect as database
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from tests.support.addresses import NAME, lead_to_both, swallowing, unanswered
from tests.support.proxy import Filter
from tests.support.waiting import becomes, until

PASSWORD = "s3cr3t-Wort"


async def sessions_there(db: psycopg.AsyncConnection) -> int:
    cursor = await db.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'dispatcher %'"
    )
    [[count]] = await cursor.fetchall()
    return int(count)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_key_value_pairs_are_a_connection_string_too(database_url):
    parts = conninfo_to_dict(database_url)
    target = PostgresTarget(" ".join(f"{key}='{value}'" for key, value in parts.items()), "test")
    assert target.address() == PostgresTarget(database_url, "test").address()
    session = await connect(target, "lane")
    assert await session.fetch("SELECT current_database()") == [(parts["dbname"],)]
    await session.close()


async def refusal(target: PostgresTarget) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        await connect(target, "lane")
    assert PASSWORD not in str(caught.value)
    return caught.value


async def answer(target: PostgresTarget) -> str:
    """What it says when it cannot connect, nothing when it can."""
    try:
        session = await connect(target, "lane")
    except Misconfigured as error:
        return str(error)
    await session.close()
    return ""


@pytest.mark.parametrize(
    "text", ["nonsense", "postgresql://[", "host=db unknown_option=1", f"http://u:{PASSWORD}@h/d", "host='"]
)
async def test_a_string_that_is_no_connection_string(text):
    assert "DATABASE_URL" in str(await refusal(PostgresTarget(text, "test")))
    assert PASSWORD not in PostgresTarget(text, "test").address()
    assert PASSWORD not in repr(PostgresTarget(text, "test"))


async def test_a_database_or_a_role_that_does_not_exist(database_url, db):
    nowhere = database_url.rsplit("/", 1)[0] + "/nowhere"
    address = PostgresTarget(nowhere, "test").address()
    assert str(await refusal(PostgresTarget(nowhere, "test"))) == (
        f'Postgres at {address} refused the connection: FATAL: database "nowhere" does not exist (SQLSTATE 3D000). '
        "Create that database (createdb), or mend its name in DATABASE_URL"
    )
    nobody = database_url.replace("postgres@", f"nobody:{PASSWORD}@")
    assert "The role does not exist" in str(await refusal(PostgresTarget(nobody, "test")))


async def test_a_refusal_where_no_file_in_memory_may_be_made(database_url, db, monkeypatch):
    """Some hardened containers forbid memfd_create: a server that starts up ended the process with an OSError."""

    def forbidden(name: str) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", forbidden)
    nowhere = PostgresTarget(database_url.rsplit("/", 1)[0] + "/no_file_in_memory", "test")
    with pytest.raises(
        Unreachable, match='takes no connection now: FATAL: database "no_file_in_memory" does not exist'
    ):
        await connect(nowhere, "lane")


async def test_a_wrong_password_and_none(own_postgres):
    server = own_postgres()
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as admin:
        await admin.execute("CREATE ROLE app LOGIN PASSWORD 'right'")
        await admin.execute(f"CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2020-01-01'")
        await admin.execute("CREATE ROLE rejected LOGIN")
    (server.data_dir / "cluster" / "pg_hba.conf").write_text(
        "host all rejected 127.0.0.1/32 reject\nhost all app,expired 127.0.0.1/32 scram-sha-256\n"
        "host all postgres 127.0.0.1/32 trust\n"
    )
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as admin:
        await admin.execute("SELECT pg_reload_conf()")
    url = server.url().replace("postgres@", "app@")

    async def refused() -> bool:  # soon: the reload is seen by the next connections
        return "a password is needed" in await answer(PostgresTarget(url, "test"))

    await until(refused, "the server asks for a password")
    for user in ("app", "expired"):
        wrong = str(await refusal(PostgresTarget(url.replace("app@", f"{user}:{PASSWORD}@"), "test")))
        assert "SQLSTATE 28P01" in wrong
        assert "password is wrong, or the password has expired" in wrong
    for user in ("rejected", "other"):
        closed = str(await refusal(PostgresTarget(url.replace("app@", f"{user}@"), "test")))
        assert "SQLSTATE 28000" in closed
        assert "pg_hba.conf" in closed


async def test_what_an_admin_took_away(database_url, db):
    """A role that may not log in, a database that it may not connect to, one that nobody may connect to."""
    role, closed = f"{db.info.dbname}_role", f"{db.info.dbname}_closed"
    await db.execute(f"CREATE ROLE {role} NOLOGIN")
    await db.execute(f"CREATE DATABASE {closed}")
    try:
        url = database_url.replace("postgres@", f"{role}@")
        assert f'role "{role}" is not permitted to log in (SQLSTATE 28000)' in str(
            await refusal(PostgresTarget(url, "test"))
        )
        await db.execute(f"ALTER ROLE {role} LOGIN")
        await db.execute(f"REVOKE CONNECT ON DATABASE {db.info.dbname} FROM public")
        taken = str(await refusal(PostgresTarget(url, "test")))
        assert "SQLSTATE 42501" in taken
        assert "GRANT CONNECT ON DATABASE" in taken
        await db.execute(f"ALTER DATABASE {closed} ALLOW_CONNECTIONS false")
        refused = str(await refusal(PostgresTarget(database_url.rsplit("/", 1)[0] + f"/{closed}", "test")))
        assert "SQLSTATE 55000" in refused
        assert "ALLOW_CONNECTIONS true" in refused
        await db.execute(f"GRANT CONNECT ON DATABASE {db.info.dbname} TO {role}")
        await db.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        with pytest.raises(NoConnectionLeft, match="SQLSTATE 53300"):
            await connect(PostgresTarget(url, "test"), "lane")
    finally:
        await db.execute(f"DROP DATABASE {closed}")
        await db.execute(f"REVOKE ALL ON DATABASE {db.info.dbname} FROM {role}")
        await db.execute(f"DROP ROLE {role}")


def speaking(words: dict[bytes, bytes]) -> Callable[[], Filter]:
    """A filter that gives a server's errors in other words, as a server in another language has them."""

    def filtered(direction: str, data: bytes) -> bytes:
        head, found, fields = data.partition(b"SFATAL\0")
        if direction == "to_client" and found:
            for ours, theirs in words.items():
                fields = fields.replace(ours, theirs)
            data = head[:-4] + (len(found + fields) + 4).to_bytes(4, "big") + found + fields
        return data

    return lambda: filtered


async def test_a_server_that_speaks_another_language(database_url, proxy, db):
    through = await proxy(database_url)
    through.make_filter = speaking({b'role "nobody" does not exist': "Rolle »nobody« existiert nicht".encode()})
    german = str(await refusal(PostgresTarget(through.via(database_url.replace("postgres@", "nobody@")), "test")))
    assert "Rolle »nobody« existiert nicht (SQLSTATE 28000). The role does not exist" in german
    through.make_filter = speaking({b"C3D000": b"C57P03", b'database "nowhere" does not exist': b"demarrage en cours"})
    nowhere = through.via(database_url).rsplit("/", 1)[0] + "/nowhere"
    with pytest.raises(Unreachable, match=r"demarrage en cours \(SQLSTATE 57P03\)"):
        await connect(PostgresTarget(nowhere, "test"), "lane")


async def test_what_a_server_says_holds_no_password(database_url, proxy, db):
    through = await proxy(database_url)
    through.make_filter = speaking({b'role "nobody" does not exist': f"the password {PASSWORD} is wrong".encode()})
    url = through.via(database_url.replace("postgres@", f"nobody:{PASSWORD}@"))
    assert "the password *** is wrong" in str(await refusal(PostgresTarget(url, "test")))


@pytest.mark.parametrize("answer_of", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n"])
@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
async def test_a_server_that_is_no_postgres(answer_of, sslmode):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer_of)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/d?sslmode={sslmode}"
        said = str(await refusal(PostgresTarget(url, "test")))
    assert "unreachable" not in said
    assert f"received {answer_of[:1].decode()}" in said or f"negotiation: {answer_of[:1].decode()}" in said


async def test_settings_that_a_server_refuses_are_left_out(database_url, monkeypatch):
    """As a server on Windows refuses one of them; whatever comes at the start of a connection, RDS Proxy refuses."""
    settings = PostgresTarget.session_settings
    with_one_more = {"client_connection_check_interval": "-5", "no_such_setting": "1"}
    monkeypatch.setattr(PostgresTarget, "session_settings", lambda self, v: settings(self, v) | with_one_more)
    session = await connect(PostgresTarget(database_url, "test", query_timeout_s=7.0), "lane")
    assert set(session.refused) == {"client_connection_check_interval", "no_such_setting"}
    assert await session.fetch("SHOW statement_timeout") == [("7s",)]
    assert await session.fetch("SHOW synchronous_commit") == [("off",)]
    await session.close()


async def test_nothing_but_names_and_encoding_is_asked_for_at_the_start(database_url, proxy):
    """RDS Proxy: "doesn't support command-line options"; PgBouncer: "unsupported startup parameter"."""
    asked: list[bytes] = []

    def note(direction: str, data: bytes) -> bytes:
        if direction == "to_server" and data[4:8] == b"\x00\x03\x00\x00":
            asked.append(data[8:])
        return data

    through = await proxy(database_url)
    through.make_filter = lambda: note
    await (await connect(PostgresTarget(through.via(database_url), "test"), "lane")).close()
    [parameters] = asked
    assert parameters.rstrip(b"\0").split(b"\0")[::2] == [b"user", b"database", b"application_name", b"client_encoding"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("port=no", "invalid integer value"),
        ("port=99999", "invalid port number"),
        ("sslmode=perhaps", "invalid sslmode"),
        ("sslmode=require", "server does not support SSL"),
        ("channel_binding=require", "channel binding required"),
    ],
)
async def test_an_option_that_cannot_be(database_url, option, words):
    assert words in str(await refusal(PostgresTarget(f"{database_url}?{option}", "test")))


async def test_a_server_that_is_too_old(database_url, db, monkeypatch):
    monkeypatch.setattr(database, "MINIMUM_VERSION", 990000)
    message = str(await refusal(PostgresTarget(database_url, "test")))
    assert f"runs PostgreSQL {db.info.server_version // 10000}." in message
    assert "or later is needed" in message
    await becomes(lambda: sessions_there(db), 0, "the number of its sessions")


async def test_a_database_without_an_encoding(postgres, db):
    name = f"{db.info.dbname}_ascii"
    await db.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        assert "has no encoding (SQL_ASCII)" in str(await refusal(PostgresTarget(postgres.url(name), "test")))
    finally:
        postgres.drop(name)


async def test_nobody_listens_or_nobody_is_there(database_url):
    nobody = f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/d"
    with pytest.raises(Unreachable, match="nothing listens there") as caught:
        await connect(PostgresTarget(nobody, "test"), "lane")
    assert PASSWORD not in str(caught.value)
    with pytest.raises(Unreachable, match=r"host name nowhere\.invalid cannot be resolved"):
        await connect(PostgresTarget("postgresql://nowhere.invalid/d", "test"), "lane")


async def test_a_server_that_says_nothing_is_given_up_and_left(database_url, proxy, db):
    through = await proxy(database_url)
    through.stall()
    before = open_files()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s"):
        await connect(PostgresTarget(through.via(database_url), "test", connect_timeout_s=0.2), "lane")
    await through.stop()
    await until(lambda: open_files() <= before, "its socket is closed, and the proxy's own")


@types.coroutine
def cancelled_at(wait: int, scope: anyio.CancelScope, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Runs `work`, and cancels the scope as it waits for the nth time."""
    step, waits = partial(work.send, None), 0
    while True:
        try:
            future = step()
        except StopIteration as end:
            return end.value
        waits += 1
        if waits == wait:
            scope.cancel()
        try:
            yield future
        except BaseException as error:
            step = partial(work.throw, error)
        else:
            step = partial(work.send, None)


async def test_who_is_cancelled_while_it_connects_leaves_no_connection(database_url, db, monkeypatch):
    """psycopg lets the loop run now and then where it waits for nothing: here each time."""
    monkeypatch.setattr(waiting, "MAX_BUSY_TIME", 0.0, raising=False)
    session, wait = None, 0
    while session is None:
        wait += 1
        with anyio.CancelScope() as scope:
            session = await cancelled_at(wait, scope, connect(PostgresTarget(database_url, "test"), "lane"))
        gc.collect()  # a connection that nobody closed says so, which fails the test
    assert wait > 3
    await session.close()
    await becomes(partial(sessions_there, db), 0, "the number of sessions")


async def test_a_second_host_is_tried_when_the_first_says_nothing(database_url, proxy):
    through = await proxy(database_url)
    through.stall()
    there, silent = conninfo_to_dict(database_url), conninfo_to_dict(through.via(database_url))
    hosts = {part: f"{silent[part]},{there[part]}" for part in ("host", "port")}
    session = await connect(PostgresTarget(make_conninfo(database_url, **hosts), "test", connect_timeout_s=5.0), "lane")
    assert await session.fetch("SELECT 1") == [(1,)]
    await session.close()


async def test_a_name_of_which_the_first_address_swallows_everything(database_url, monkeypatch):
    lead_to_both(monkeypatch)
    target = PostgresTarget(database_url.replace("127.0.0.1", NAME), "test", connect_timeout_s=100.0)
    with (
        swallowing(int(conninfo_to_dict(database_url)["port"] or 0)),
        anyio.fail_after(50),
    ):  # not the whole of the first's
        session = await connect(target, "lane")
    assert await session.fetch("SELECT 1") == [(1,)]
    await session.close()


async def test_a_name_that_nobody_resolves_keeps_no_other_host_waiting(database_url, monkeypatch):
    there = conninfo_to_dict(database_url)
    hosts = {"host": f"{NAME},{there['host']}", "port": f"5432,{there['port']}"}
    target = PostgresTarget(make_conninfo(database_url, **hosts), "test", connect_timeout_s=100.0)
    with unanswered(monkeypatch, NAME), anyio.fail_after(50):
        session = await connect(target, "lane")
    assert await session.fetch("SELECT 1") == [(1,)]
    await session.close()


async def test_a_name_that_nobody_resolves_is_given_up(database_url, monkeypatch):
    target = PostgresTarget(database_url.replace("127.0.0.1", NAME), "test", connect_timeout_s=0.5)
    words = rf"the host name {NAME} was not resolved within 0.5 s"
    with unanswered(monkeypatch, NAME), anyio.fail_after(50), pytest.raises(Unreachable, match=words):
        await connect(target, "lane")
