"""Postgres has fewer connections than a dispatcher opens: what matters most has one, and what is missing is said."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import anyio
import psycopg
import pytest

from dispatcher.core.events import SessionMissing, Settled
from dispatcher.infra.postgres import precedence
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.doctor.sessions import sessions as look_at_sessions
from tests.support.handlers import MakeModule
from tests.support.proxy import Direction, Filter, StartProxy
from tests.support.rows import insert_events
from tests.support.running import Running, StartDispatcher
from tests.support.waiting import until

ALL = {"upkeep", "lane-0", "control", "chores", "lane-1", "lane-2"}
READY = b"Z\x00\x00\x00\x05"  # ReadyForQuery
IN_ORDER = ["upkeep", "lane-0", "control", "chores", "lane-1", "lane-2"]


@pytest.fixture
async def limited(db: psycopg.AsyncConnection, database_url: str) -> AsyncIterator[str]:
    """The URL of the database for a role of the test's own, whose limit the test sets."""
    role = f"{db.info.dbname}_relay"
    await db.execute(f"CREATE ROLE {role} LOGIN IN ROLE postgres")
    yield database_url.replace("postgres@", f"{role}@")
    await db.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", (role,))
    await db.execute(f"DROP ROLE {role}")


async def limit_to(db: psycopg.AsyncConnection, url: str, limit: int) -> None:
    await db.execute(f"ALTER ROLE {psycopg.conninfo.conninfo_to_dict(url)['user']} CONNECTION LIMIT {limit}")


async def purposes(db: psycopg.AsyncConnection, url: str) -> set[str]:
    """What the sessions that the dispatcher has are for."""
    role = psycopg.conninfo.conninfo_to_dict(url)["user"]
    cursor = await db.execute("SELECT application_name FROM pg_stat_activity WHERE usename = %s", (role,))
    return {name.split(" ")[1] for (name,) in await cursor.fetchall() if name.startswith("dispatcher ")} - {"api"}


def breaks_connects(purpose: str, now: Callable[[], bool]) -> Callable[[], Filter]:
    """The connection breaks as this session begins, while `now()`: a failure that says nothing of room."""

    def filtered(direction: Direction, data: bytes) -> bytes:
        if direction == "to_server" and f"dispatcher {purpose} ".encode() in data and now():
            raise ConnectionAbortedError
        return data

    return lambda: filtered


def hears_no_question() -> Callable[[], Filter]:
    """The server takes the connection and the password, and answers nothing after that."""

    def make() -> Filter:
        ready = False

        def filtered(direction: Direction, data: bytes) -> bytes:
            nonlocal ready
            ready = ready or (direction == "to_client" and READY in data)
            return b"" if ready and direction == "to_server" else data

        return filtered

    return make


async def missing(running: Running) -> str:
    async with aiohttp.ClientSession() as client, client.get(f"{running.http_url}/ready") as answer:
        return str((await answer.json()).get("missing", "")) if answer.status == 200 else "not ready"


@pytest.mark.parametrize("limit", [5, 4, 2])
async def test_what_matters_most_comes_first(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection, limited: str, limit: int
) -> None:
    await limit_to(db, limited, limit)
    async with dispatcher(database_url=limited, http_enabled=True, tick_ms=100) as running:
        expected = set(IN_ORDER[:limit])

        async def there() -> bool:
            return await purposes(db, limited) == expected

        await until(there, f"the sessions {expected}")
        await insert_events(db, 20)

        async def sent() -> bool:
            cursor = await db.execute("SELECT FROM messaging.message_outbox WHERE status = 'sent'")
            return cursor.rowcount == 20

        await until(sent, "all are sent")

        async def said() -> bool:
            text = await missing(running)
            return all(f"{purpose} (" in text for purpose in ALL - expected)

        await until(said, "/ready says which are missing")
        told = [event.session for event in running.tap.all(SessionMissing) if event.reason is not None]
        assert ALL - expected <= set(told)
        session = await connect(PostgresTarget(str(db.info.dsn), "test"), "doctor")
        found = (await look_at_sessions(session)).found
        await session.close()
        assert f"goes without {', '.join(sorted(ALL - expected))}" in found
        await limit_to(db, limited, -1)

        async def complete() -> bool:
            return await purposes(db, limited) == ALL and await missing(running) == ""

        await until(complete, "nothing is missing")


async def test_a_session_that_matters_gets_the_connection_of_a_lane(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection, limited: str
) -> None:
    async with dispatcher(database_url=limited, http_enabled=True, tick_ms=100) as running:
        await limit_to(db, limited, 5)
        await db.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'dispatcher control %'"
        )

        async def there() -> bool:
            return await purposes(db, limited) == ALL - {"lane-2"}

        await until(there, "control has the connection of a lane")
        await insert_events(db, 5)

        async def sent() -> bool:
            cursor = await db.execute("SELECT FROM messaging.message_outbox WHERE status = 'sent'")
            return cursor.rowcount == 5

        await until(sent, "all are sent")

        async def said() -> bool:
            return await missing(running) == "lane-2 (fewer batches overlap)"

        await until(said, "/ready says which is missing")


async def test_it_gets_it_again_when_the_lane_took_it_back_meanwhile(
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection,
    limited: str,
    proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It failed otherwise once, which lets the lane try: that must not leave it without a connection for good."""
    monkeypatch.setattr(precedence, "FREED_S", 0.1)
    through = await proxy(limited)
    gave_way = anyio.Event()
    back = anyio.Event()
    through.make_filter = breaks_connects("control", lambda: gave_way.is_set() and not back.is_set())
    async with dispatcher(database_url=through.via(limited), tick_ms=100) as running:
        await limit_to(db, limited, 5)
        running.service._sessions.lanes[2].on_change(lambda up, reason: (back if up else gave_way).set())
        await db.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'dispatcher control %'"
        )
        await back.wait()

        async def there() -> bool:
            return await purposes(db, limited) == ALL - {"lane-2"}

        await until(there, "control has the connection of the lane")


@pytest.mark.parametrize("others", [False, True], ids=["full", "full and breaks off"])
async def test_a_connection_that_somebody_else_takes_is_given_up_once(
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection,
    limited: str,
    proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
    others: bool,
) -> None:
    """`others`: every second try fails for another reason.

    Else a full server would get all our connections, one after the other, and nothing would be published."""
    monkeypatch.setattr(precedence, "FREED_S", 0.1)
    failures: list[str | None] = []
    through = await proxy(limited)
    async with dispatcher(database_url=through.via(limited), tick_ms=100) as running:
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
        if others:
            through.make_filter = breaks_connects("upkeep", lambda: len(failures) % 2 == 1)
        running.service._sessions.upkeep.on_change(lambda up, reason: failures.append(reason))
        await limit_to(db, limited, 0)
        await db.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'dispatcher upkeep %'"
        )
        await until(lambda: len(failures) > 10, "upkeep finds no connection again and again")
        assert await purposes(db, limited) == ALL - {"upkeep", "lane-2"}
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
        await limit_to(db, limited, -1)

        async def complete() -> bool:
            return await purposes(db, limited) == ALL

        await until(complete, "nothing is missing")


async def test_a_direct_path_gone_silent_takes_no_lane(
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection,
    limited: str,
    proxy: StartProxy,
    handlers_module: MakeModule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lanes have their connections on another path: theirs would not help, and each that is lost has to come back."""
    monkeypatch.setattr(precedence, "FREED_S", 0.1)

    async def handle(payload: Any) -> None:
        """Do nothing."""

    direct = await proxy(limited)
    settings = {"database_url": limited, "listen_url": direct.via(limited), "connect_timeout_ms": 300}
    lanes = {"lane-0", "lane-1", "lane-2"}
    async with dispatcher(**settings, tick_ms=100, handlers=handlers_module({"mail": handle})) as running:
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
        sessions = running.service._sessions
        failures: list[str | None] = []
        for each in (sessions.upkeep, sessions.control, sessions.chores):
            each.on_change(lambda up, reason: failures.append(reason))
        direct.make_filter = hears_no_question()
        direct.cut()
        await until(lambda: len(failures) > 9, "no answer, again and again")
        assert await purposes(db, limited) >= lanes | {"handlers"}
        await db.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'dispatcher lane-%'"
        )
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
        direct.make_filter = None

        async def complete() -> bool:
            return await purposes(db, limited) == ALL | {"handlers"}

        await until(complete, "nothing is missing")
