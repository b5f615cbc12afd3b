"""A password is changed under a running dispatcher, its file rewritten, its connections cut: events go on."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import (
    BreakerChanged,
    DatabaseChanged,
    ListenerChanged,
    Sampled,
    Settled,
    Slept,
    Started,
    Ticked,
    Woke,
)
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.service import Service
from dispatcher.settings import Settings
from tests.support.postgres import StartPostgres
from tests.support.redis import StartValkey
from tests.support.rows import insert_events, read_stream, statuses
from tests.support.running import Running
from tests.support.tap import Tap
from tests.support.tls import behind_tls
from tests.support.waiting import becomes

ROLES = (Path(__file__).parents[2] / "sql" / "roles.sql").read_text(encoding="utf-8")
CONNECTIONS = 6  # three lanes, control, upkeep, chores
OURS = "SELECT FROM pg_stat_activity WHERE usename = 'relay'"
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'"


@pytest.fixture
def guarded_postgres(own_postgres: StartPostgres, server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A Postgres that asks the role relay for its password, 'one'."""
    rules = server_folder / "pg_hba.conf"
    rules.write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    rules.chmod(0o644)
    server = own_postgres(options={"hba_file": str(rules)})
    anyio.run(migrate, server.url())
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(ROLES.encode())
        connection.execute("CREATE ROLE relay LOGIN PASSWORD 'one' IN ROLE outbox_dispatcher")
    yield server
    rules.unlink()


@pytest.fixture
async def admin(guarded_postgres: EmbeddedPostgres) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(guarded_postgres.url(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def guarded_valkey(own_valkey: StartValkey) -> EmbeddedValkey:
    """A Valkey whose password is 'one'."""
    return own_valkey(options={"requirepass": "one"})


@asynccontextmanager
async def running(**variables: object) -> AsyncIterator[Running]:
    """A dispatcher that was configured by these variables, as a container is."""
    tap = Tap()
    env = {name.upper(): str(value) for name, value in variables.items()}
    env |= {"DISPATCHER_ENABLED": "true", "DISPATCH_TICK_MS": "60000", "DISPATCH_LOG_LEVEL": "CRITICAL"}
    it = Running(Service(Settings.load(env, {"disable_http": True}), tap), tap)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(it.service.run)
        await tap.next(Started)
        await tap.next(ListenerChanged, lambda event: event.up)
        yield it
        it.service.stop("the test is over")


def relay_url(server: EmbeddedPostgres, password: str) -> str:
    return server.url().replace("postgres@", f"relay:{password}@", 1)


def valkey_url(server: EmbeddedValkey, password: str) -> str:
    return urlsplit(server.url)._replace(netloc=f":{password}@{urlsplit(server.url).netloc}").geturl()


async def one_more_goes_out(admin: psycopg.AsyncConnection, tap: Tap) -> None:
    before = (await statuses(admin)).get("sent", 0)
    await insert_events(admin)
    await tap.next(Settled, lambda event: event.sent == 1)
    assert await statuses(admin) == {"sent": before + 1}


async def at_rest(admin: psycopg.AsyncConnection, tap: Tap) -> None:
    """Wait until it has all its connections and sleeps on its listener, so that it hears of a cut at once."""
    while not isinstance(next((event for event in reversed(tap.seen) if isinstance(event, Slept | Woke)), None), Slept):
        await tap.next(Slept)

    async def connections() -> int:
        return (await admin.execute(OURS)).rowcount

    await becomes(connections, CONNECTIONS, "the number of its connections")


@pytest.mark.promise("rotation")
async def test_postgres(guarded_postgres, admin, redis_url, redis, tmp_path):
    file = tmp_path / "database_url"
    file.write_text(relay_url(guarded_postgres, "one") + "\n")
    async with running(database_url_file=file, redis_url=redis_url) as it:
        await one_more_goes_out(admin, it.tap)
        await admin.execute("ALTER ROLE relay PASSWORD 'two'")
        await at_rest(admin, it.tap)
        await admin.execute(CUT)
        # Before the file is written the old password is refused, and that does not end the process.
        await it.tap.next(ListenerChanged, lambda event: "password is wrong" in (event.reason or ""))
        file.write_text(relay_url(guarded_postgres, "two"))
        await it.tap.next(ListenerChanged, lambda event: event.up)
        await one_more_goes_out(admin, it.tap)
        # A file that is written at this moment, or gone, is waited for.
        await at_rest(admin, it.tap)
        file.write_text("")
        await admin.execute(CUT)
        await it.tap.next(ListenerChanged, lambda event: f"DATABASE_URL_FILE is '{file}'" in (event.reason or ""))
        file.write_text(relay_url(guarded_postgres, "two"))
        await it.tap.next(ListenerChanged, lambda event: event.up)
        await one_more_goes_out(admin, it.tap)
        reasons = [event.reason or "" for event in it.tap.all(ListenerChanged) + it.tap.all(DatabaseChanged)]
        assert not [reason for reason in reasons if "relay:" in reason]
    assert len(await read_stream(redis)) == 3


async def test_a_listen_url_of_its_own(guarded_postgres, admin, redis_url, tmp_path):
    rows, listen = tmp_path / "database_url", tmp_path / "listen_url"
    for file in (rows, listen):
        file.write_text(relay_url(guarded_postgres, "one"))
    async with running(database_url_file=rows, dispatch_listen_url_file=listen, redis_url=redis_url) as it:
        await admin.execute("ALTER ROLE relay PASSWORD 'two'")
        rows.write_text(relay_url(guarded_postgres, "two"))
        await at_rest(admin, it.tap)
        await admin.execute(CUT)
        await it.tap.next(ListenerChanged, lambda event: "password is wrong" in (event.reason or ""))
        listen.write_text(relay_url(guarded_postgres, "two"))
        await it.tap.next(ListenerChanged, lambda event: event.up)
        await one_more_goes_out(admin, it.tap)


@pytest.mark.promise("rotation")
async def test_a_role_is_replaced_by_another(guarded_postgres, admin, redis_url, tmp_path):
    """As Vault does it: the old one loses its rights and is dropped, and keeps its sessions."""
    file = tmp_path / "database_url"
    file.write_text(relay_url(guarded_postgres, "one"))
    async with running(database_url_file=file, redis_url=redis_url) as it:
        await one_more_goes_out(admin, it.tap)
        await at_rest(admin, it.tap)
        await admin.execute("CREATE ROLE relay_2 LOGIN PASSWORD 'one' IN ROLE outbox_dispatcher")
        await admin.execute("REVOKE outbox_dispatcher FROM relay")
        await admin.execute("DROP ROLE relay")
        waiting = await insert_events(admin)
        await it.tap.next(Ticked, lambda event: "permission denied" in (event.error or ""))
        file.write_text(relay_url(guarded_postgres, "one").replace("relay:", "relay_2:"))
        assert (await it.tap.next(Settled, lambda event: event.sent > 0)).sent == len(waiting)

        async def sessions() -> tuple[int, int]:
            all_of_ours = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'dispatcher %'"
            new = (await admin.execute(f"{all_of_ours} AND usename = 'relay_2'")).rowcount
            return new, (await admin.execute(all_of_ours)).rowcount - new

        await becomes(sessions, (CONNECTIONS, 0), "the number of its sessions, of the new role and the old one")
        await one_more_goes_out(admin, it.tap)


@pytest.mark.promise("rotation")
async def test_a_user_of_redis_is_replaced_by_another(database_url, db, own_valkey, tmp_path):
    """The old one loses its rights, and keeps its connections."""
    server = own_valkey()
    file = tmp_path / "redis_url"
    file.write_text(server.url.replace("redis://", "redis://one:word@"))
    async with Redis.from_url(server.url) as admin:
        for user in ("one", "two"):
            await admin.acl_setuser(user, enabled=True, passwords="+word", keys="*", commands=["+@all"])
        async with running(database_url=database_url, redis_url_file=file) as it:
            await one_more_goes_out(db, it.tap)
            await admin.acl_setuser("one", enabled=True, passwords="+word", keys="*", commands=["-@all"])
            waiting = await insert_events(db)
            await it.tap.next(BreakerChanged, lambda event: event.state == "open")
            file.write_text(server.url.replace("redis://", "redis://two:word@"))
            assert (await it.tap.next(Settled, lambda event: event.sent > 0)).sent == len(waiting)
            it.tap.forget()
            await it.tap.next(Sampled, lambda event: event.stream_length == 2)  # the gauges too
            await one_more_goes_out(db, it.tap)


@pytest.mark.promise("rotation")
async def test_redis_that_has_gone_silent(database_url, db, redis_url, certificate, proxy, tmp_path):
    """The connections from before wait for the end of TLS, which nobody answers."""
    file = tmp_path / "redis_url"
    async with behind_tls(redis_url, certificate) as port:
        through = await proxy(f"rediss://127.0.0.1:{port}")
        url = f"rediss://127.0.0.1:{through.port}/0?ssl_ca_certs={certificate.authority}"
        file.write_text(url)
        async with running(database_url=database_url, redis_url_file=file) as it:
            await one_more_goes_out(db, it.tap)
            it.tap.forget()
            await it.tap.next(Sampled, lambda event: event.stream_length == 1)
            through.lose_links()
            file.write_text(url.replace("rediss://", "rediss://default:@"))
            it.tap.forget()
            await it.tap.next(Sampled, lambda event: event.stream_length == 1)
            await one_more_goes_out(db, it.tap)


@pytest.mark.promise("rotation")
async def test_redis(database_url, db, guarded_valkey, tmp_path):
    file = tmp_path / "redis_url"
    file.write_text(valkey_url(guarded_valkey, "one"))
    async with (
        Redis.from_url(valkey_url(guarded_valkey, "one"), decode_responses=True) as client,
        running(database_url=database_url, redis_url_file=file) as it,
    ):
        await one_more_goes_out(db, it.tap)
        await client.config_set("requirepass", "two")
        await client.client_kill_filter(_type="normal", skipme=True)
        waiting = await insert_events(db)
        # Before the file is written the old password is refused, and that does not end the process.
        await it.tap.next(BreakerChanged, lambda event: event.state == "open")
        await it.tap.next(Sampled, lambda event: event.redis_error == "AuthenticationError")
        file.write_text(valkey_url(guarded_valkey, "two"))
        assert (await it.tap.next(Settled, lambda event: event.sent > 0)).sent == len(waiting)
        it.tap.forget()
        await it.tap.next(Sampled, lambda event: event.stream_length == 2)  # the gauges too
        await one_more_goes_out(db, it.tap)
        assert len(await read_stream(client)) == 3
