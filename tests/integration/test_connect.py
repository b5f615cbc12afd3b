"""A connection that cannot be made is told in plain words: what is wrong, where, and no password."""

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.embedded import free_port
from dispatcher.infra.postgres import connect as database
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
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
    expected = f"Postgres at {address} refused the connection: the role or database does not exist. Check DATABASE_URL"
    assert str(await refusal(PostgresTarget(nowhere, "test"))) == expected
    nobody = database_url.replace("postgres@", f"nobody:{PASSWORD}@")
    assert "the role or database does not exist" in str(await refusal(PostgresTarget(nobody, "test")))


async def test_a_wrong_password_and_none(own_postgres):
    server = own_postgres()
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as admin:
        await admin.execute("CREATE ROLE app LOGIN PASSWORD 'right'")
    (server.data_dir / "cluster" / "pg_hba.conf").write_text(
        "host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n"
    )
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as admin:
        await admin.execute("SELECT pg_reload_conf()")
    url = server.url().replace("postgres@", "app@")

    async def refused() -> bool:  # soon: the reload is seen by the next connections
        return "a password is needed" in await answer(PostgresTarget(url, "test"))

    await until(refused, "the server asks for a password")
    wrong = await refusal(PostgresTarget(url.replace("app@", f"app:{PASSWORD}@"), "test"))
    assert "the user or password is wrong" in str(wrong)
    assert "no entry" in str(await refusal(PostgresTarget(url.replace("app@", "other@"), "test")))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("port=no", "such as the port"),
        ("port=99999", "the port is not a number"),
        ("sslmode=perhaps", "sslmode is none of"),
        ("sslmode=require", "the server has none"),
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
    with pytest.raises(Unreachable, match="host name cannot be resolved"):
        await connect(PostgresTarget("postgresql://nowhere.invalid/d", "test"), "lane")


async def test_a_server_that_says_nothing_is_given_up_and_left(database_url, proxy, db):
    through = await proxy(database_url)
    through.stall()
    before = open_files()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s"):
        await connect(PostgresTarget(through.via(database_url), "test", connect_timeout_s=0.2), "lane")
    await through.stop()
    assert open_files() <= before


async def test_a_second_host_is_tried_when_the_first_says_nothing(database_url, proxy):
    through = await proxy(database_url)
    through.stall()
    there, silent = conninfo_to_dict(database_url), conninfo_to_dict(through.via(database_url))
    hosts = {part: f"{silent[part]},{there[part]}" for part in ("host", "port")}
    session = await connect(PostgresTarget(make_conninfo(database_url, **hosts), "test", connect_timeout_s=5.0), "lane")
    assert await session.fetch("SELECT 1") == [(1,)]
    await session.close()
