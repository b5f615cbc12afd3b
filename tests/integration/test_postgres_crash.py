"""After a crash of Postgres: what it forgot is found in the stream, and nothing is claimed before the look.

A crash is made by hand: rows are put back as they would be, and messaging.unbroken is emptied. That a real one empties
it, and a clean restart does not, has a test of its own; tests/faults has crashes under load.
"""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.errors import Unreachable
from dispatcher.core.events import CrashAudited
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget, client_name
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.upkeep.postgres_crash import AuditedSink, PostgresCrashAudit
from tests.support.layouts import standing
from tests.support.postgres import StartPostgres
from tests.support.proxy import StartProxy
from tests.support.rows import STREAM, insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.tap import Tap
from tests.support.waiting import until

Db = psycopg.AsyncConnection[Any]
Make = Callable[..., Awaitable[PostgresCrashAudit]]
FORGET = "DELETE FROM messaging.unbroken"
NEW = "UPDATE messaging.message_outbox SET status = 'pending', picked_at = NULL, picked_by = NULL, claim_id = NULL, "
OTHER = "c56a4180-65aa-42ec-a945-5fd21dec0538"
CLAIM_FORGOTTEN = NEW + "sent_at = NULL, stream_id = NULL"


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "cafe0000 us"), "upkeep")
    yield session
    await session.close()


@pytest.fixture
async def make(redis_url: str, tap: Tap) -> AsyncIterator[Make]:
    """Makes an audit, its publisher connected."""
    brokers: list[RedisConnection] = []

    async def verify(redis_connection: RedisConnection) -> RedisIncarnation:
        return RedisIncarnation()

    async def made(url: str = redis_url, deadline_s: float = 60.0) -> PostgresCrashAudit:
        publisher, looker = (
            RedisConnection(
                RedisTarget.parse(url), name=name, streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
            )
            for name in ("us", "look-us")
        )
        brokers.extend((publisher, looker))
        await publisher.connect()
        publisher.incarnation = RedisIncarnation()
        return PostgresCrashAudit(
            [AuditedSink((STREAM,), publisher, looker, verify)],
            layout=standing(),
            deadline_s=deadline_s,
            wake=lambda: None,
            observe=tap,
        )

    yield made
    for redis_connection in brokers:
        redis_connection.close()


async def publish(redis: "Redis", db: Db, *, at: int = 1000) -> list[str]:
    """Add the entries of all rows, in order, from this id on."""
    events = [str(row["event_id"]) for row in await read_table(db)]
    return [str(await redis.xadd(STREAM, {"event_id": event}, id=f"{at + n}-0")) for n, event in enumerate(events)]


async def claimable(session: Session) -> int:
    return len((await claim(session, claim_id=new_claim_id(), dispatcher=1, limit=1000)).rows)


@pytest.mark.promise("postgres-crash")
async def test_nothing_is_claimed_before_the_search(session: Session, make: Make, db: Db) -> None:
    await insert_events(db, 3)
    audit = await make()
    assert await audit.note(session)
    await db.execute(FORGET)
    assert await claimable(session) == 0
    assert not await audit.note(session)
    await audit.audit(session)
    assert await audit.note(session)
    assert await claimable(session) == 3


@pytest.mark.promise("postgres-crash")
async def test_forgotten_settles_and_claims_are_found(
    session: Session, make: Make, db: Db, redis: "Redis", tap: Tap
) -> None:
    await insert_events(db, 6)
    ids = await publish(redis, db)
    held = {"status": "picked", "picked_at": "2025-06-01 00:00:00+00", "picked_by": 7, "claim_id": new_claim_id()}
    for row in (2, 3):  # only the settle is forgotten
        await db.execute(
            "UPDATE messaging.message_outbox SET status = %s, picked_at = %s, picked_by = %s, claim_id = %s, "
            "stream_id = '999-0' WHERE id = %s",
            (*held.values(), row),
        )
    await redis.xdel(STREAM, ids[5])  # never published
    await db.execute(FORGET)
    await (await make()).audit(session)
    table = await read_table(db)
    assert [row["status"] for row in table] == ["sent"] * 5 + ["pending"]
    assert [row["stream_id"] for row in table] == [*ids[:5], None]
    assert {row["attempts"] for row in table} == {0}
    assert tap.all(CrashAudited) == [CrashAudited(5, 5)]


@pytest.mark.parametrize("other", [f"urn:uuid:{OTHER}", f"{{{OTHER}}}", OTHER.replace("56", "_6"), OTHER.upper()])
async def test_ids_of_others_in_the_stream_do_not_end_the_look(
    session: Session, make: Make, db: Db, redis: "Redis", tap: Tap, other: str
) -> None:
    """Python reads a UUID in forms that Postgres refuses: the audit failed for ever, and nothing was claimed."""
    await insert_events(db, 2)
    await publish(redis, db)
    await redis.xadd(STREAM, {"event_id": other})
    await db.execute(FORGET)
    await (await make()).audit(session)
    assert await statuses(db) == {"sent": 2}
    [audited] = tap.all(CrashAudited)
    assert (audited.found, audited.looked_at) == (2, 3)


async def test_the_note_bounds_the_search(session: Session, make: Make, db: Db, redis: "Redis", tap: Tap) -> None:
    """Rows that are replayed are in the stream too, before the note: they go out again."""
    await insert_events(db, 4)
    ids = await publish(redis, db)
    audit = await make()
    audit._sinks[0].publisher.known_entries.floor = ids[1]
    assert await audit.note(session)
    audit._sinks[0].publisher.known_entries.floor = ids[0]  # an older one, by somebody who published less
    assert await audit.note(session)
    await db.execute(FORGET)
    audit._sinks[0].publisher.known_entries.floor = ids[3]
    assert not await audit.note(session)  # too late: claims of before the look may be forgotten
    await audit.audit(session)
    assert await statuses(db) == {"pending": 2, "sent": 2}
    assert tap.all(CrashAudited) == [CrashAudited(2, 2)]


async def test_a_claim_that_is_older_than_the_note(session: Session, make: Make, db: Db, redis: "Redis") -> None:
    """Its floor counts, not the note; and what waits to be replayed is not taken for sent because of it."""
    await insert_events(db, 3)
    ids = await publish(redis, db)
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'picked', picked_at = now(), stream_id = '999-0' WHERE id = 1"
    )
    await db.execute("UPDATE messaging.message_outbox SET stream_id = %s WHERE id = 3", (ids[2],))  # a plain replay
    audit = await make()
    audit._sinks[0].publisher.known_entries.floor = ids[1]
    assert await audit.note(session)
    await db.execute(FORGET)
    await audit.audit(session)
    assert [row["status"] for row in await read_table(db)] == ["sent", "pending", "pending"]


async def test_after_a_failover_that_the_note_does_not_know(
    session: Session, make: Make, db: Db, redis: "Redis"
) -> None:
    """The new Redis's clock is behind: its entries are older than the note."""
    await insert_events(db, 2)
    audit = await make()
    audit._sinks[0].publisher.incarnation = RedisIncarnation("run a", "data a", ((STREAM, 0),))
    audit._sinks[0].publisher.known_entries.floor = "5000-0"
    assert await audit.note(session)
    await db.execute(
        "INSERT INTO messaging.stream_server (stream, run_id, replid, last_id) VALUES (%s, 'run b', 'data b', '900-0')",
        (STREAM,),
    )
    assert await audit.note(session)  # somebody who is still there: not accepted
    await publish(redis, db)
    await db.execute(FORGET)
    await audit.audit(session)
    assert await statuses(db) == {"sent": 2}
    audit._sinks[0].publisher.incarnation = RedisIncarnation("run b", "data b", ((STREAM, 0),))
    audit._sinks[0].publisher.known_entries.floor = "1001-0"
    assert await audit.note(session)
    rows = await session.fetch("SELECT stream_id, replid FROM messaging.newest_entry")
    assert rows == [("1001-0", "data b")]


@pytest.mark.promise("postgres-crash")
async def test_those_who_publish_are_ended_first(
    session: Session, make: Make, db: Db, redis: "Redis", redis_url: str
) -> None:
    await db.execute("INSERT INTO messaging.dispatcher (name) VALUES ('us'), ('frozen')")
    audit = await make()
    async with (
        Redis.from_url(redis_url, client_name=client_name("frozen")) as frozen,
        Redis.from_url(redis_url, client_name=client_name("stranger")) as stranger,
    ):
        await frozen.ping()
        await stranger.ping()
        await db.execute(FORGET)
        await audit.audit(session)
        names = {client["name"] for client in await redis.client_list()}
    assert {client_name(name) for name in ("us", "frozen", "look-us", "stranger")} & names == {client_name("stranger")}
    assert not audit._sinks[0].publisher.up


async def test_a_look_that_fails_lets_nobody_claim(
    session: Session, make: Make, db: Db, redis_url: str, proxy: StartProxy
) -> None:
    await insert_events(db, 1)
    through = await proxy(redis_url)
    audit = await make(through.via(redis_url))
    await db.execute(FORGET)
    through.refuse()
    through.cut()
    with pytest.raises(Unreachable):
        await audit.audit(session)
    assert await claimable(session) == 0
    await through.restore()
    await audit.audit(session)  # no lock was left behind
    assert await claimable(session) == 1


async def test_one_at_a_time(session: Session, make: Make, database_url: str, db: Db, tap: Tap) -> None:
    rival = await connect(PostgresTarget(database_url, "beef0000 rival"), "upkeep")
    await db.execute(FORGET)
    await rival.fetch("SELECT pg_advisory_lock(1869968482, 5)")
    audit = await make()
    await audit.audit(session)
    assert not await audit.note(session)
    await rival.close()
    await db.execute("SELECT pg_terminate_backend(%s, 5000)", (rival.backend_pid,))
    await audit.audit(session)
    assert await audit.note(session)


async def test_a_running_dispatcher_finds_out_and_doubles_nothing(
    dispatcher: StartDispatcher, db: Db, redis: "Redis"
) -> None:
    """The note was renewed since the claims: it was written after them, so a crash that forgets them forgets it too."""
    async with dispatcher(tick_ms=100), dispatcher(tick_ms=100):
        before = await noted(db)
        await insert_events(db, 20)
        await until(lambda: sent(db, 20), "all are sent")
        newest = (await read_stream(redis))[-1]["stream_id"]

        async def renewed() -> bool:
            return await noted(db) == newest

        await until(renewed, "the newest entry is noted")
        async with db.transaction():
            # Who notes or claims just now comes before all of it, or sees all of it.
            await db.execute("LOCK TABLE messaging.newest_entry, messaging.unbroken")
            await db.execute("UPDATE messaging.newest_entry SET stream_id = %s", (before,))
            await db.execute(CLAIM_FORGOTTEN)
            await db.execute(FORGET)
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'disp%'")
        await insert_events(db, 5)
        await until(lambda: sent(db, 25), "all are sent again")
    events = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(events) == len(set(events)) == 25


async def noted(db: Db) -> str:
    [(stream_id,)] = await (await db.execute("SELECT stream_id FROM messaging.newest_entry")).fetchall()
    return str(stream_id)


async def sent(db: Db, rows: int) -> bool:
    return await statuses(db) == {"sent": rows}


async def test_a_crash_empties_the_mark_and_a_restart_does_not(own_postgres: StartPostgres) -> None:
    server = own_postgres(durable=True, options={"fsync": "off"})
    await migrate(server.url())

    async def marked() -> bool:
        async with await psycopg.AsyncConnection.connect(server.url()) as connection:
            [(found,)] = await (await connection.execute("SELECT count(*) FROM messaging.unbroken")).fetchall()
            return bool(found)

    assert await marked()
    await anyio.to_thread.run_sync(server.stop)
    await anyio.to_thread.run_sync(server.start)
    assert await marked()
    await anyio.to_thread.run_sync(server.crash)
    await anyio.to_thread.run_sync(server.start)
    assert not await marked()
    await migrate(server.url())
    assert not await marked()


async def test_one_killed_session_is_a_crash_too(own_postgres: StartPostgres) -> None:
    """Postgres ends all sessions and throws its memory away, the end of its log with it; it does not restart."""
    server = own_postgres(durable=True, options={"fsync": "off"})
    await migrate(server.url())
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)

        async def forgotten() -> bool:
            try:
                async with await psycopg.AsyncConnection.connect(server.url()) as connection:
                    found = await (await connection.execute("SELECT count(*) FROM messaging.unbroken")).fetchall()
                    return found == [(0,)]
            except psycopg.OperationalError:
                return False

        await until(forgotten, "it is back, and may have forgotten")
