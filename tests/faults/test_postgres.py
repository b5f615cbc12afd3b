"""Postgres that crashes, stays away, ends sessions, locks, refuses and commits late."""

import time
from collections import Counter
from uuid import uuid4

import psycopg
import pytest

from dispatcher.embedded import EmbeddedPostgres
from tests.support.faults.load import INSERT
from tests.support.faults.steps import after_publish
from tests.support.faults.world import RELAY, StartWorld, World, in_thread
from tests.support.waiting import pass_time, until


async def working(w: World) -> Counter[str]:
    """Sessions by their purpose, but for the one of the chores: it is opened again when the next one is due."""
    rows = await w.ask(
        "SELECT split_part(application_name, ' ', 2) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'dispatcher %%'"
    )
    return Counter(purpose for (purpose,) in rows if purpose != "chores")


@pytest.mark.promise("postgres-outage")
@pytest.mark.quick
async def test_all_backends_terminated(world: StartWorld) -> None:
    async with world() as w:
        await w.dispatcher()
        async with w.survives("all its Postgres sessions terminated, 3 times", stolen=True) as fault:
            full = await working(w)

            async def back() -> bool:
                return await working(w) >= full

            for _ in range(3):
                await w.backlog(500)
                assert await w.end_sessions("dispatcher %")
                await until(back, "all sessions are back")
            fault.heal()


@pytest.mark.promise("wake")
async def test_listener_terminated(world: StartWorld) -> None:
    async with world(DISPATCH_TICK_MS="1000") as w:
        one = await w.dispatcher()
        async with w.survives("the listener's session terminated") as fault:
            await w.end_sessions("dispatcher control %")
            fault.heal()

            async def listens_again() -> bool:
                return await one.events("listener_up") == 2

            await until(listens_again, "it listens again")


@pytest.mark.promise("postgres-outage")
@pytest.mark.quick
async def test_killed_and_restarted(world: StartWorld, crashable_postgres: EmbeddedPostgres) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Postgres killed and restarted", stolen=True) as fault:
            await in_thread(crashable_postgres.crash)
            await until(lambda: one.events("database_down"), "it knows")
            await in_thread(crashable_postgres.start)
            fault.heal()


@pytest.mark.promise("postgres-crash")
@pytest.mark.parametrize(
    "with_it", [pytest.param(False, marks=pytest.mark.quick), True], ids=["alone", "dispatchers too"]
)
async def test_killed_and_much_forgotten(
    world: StartWorld, crashable_postgres: EmbeddedPostgres, with_it: bool
) -> None:
    """It never flushes by itself here, and nobody's commit waits for the disk: the crash undoes a thousand settles."""
    async with world() as w:
        for _ in range(2):
            await w.dispatcher()
        also = ", both dispatchers killed too" if with_it else ""
        async with w.survives(f"Postgres killed, its last 1,000 settles forgotten{also}", stolen=True) as fault:
            await w.load.stop()
            for setting in ("wal_writer_delay = 10000", "wal_writer_flush_after = 1000000"):
                await w.ask(f"ALTER SYSTEM SET {setting}")
            await w.ask("SELECT pg_reload_conf()")
            for _ in range(10):  # now and then it flushes just before the crash
                await w.backlog(1000)
                await w.drained()
                await in_thread(crashable_postgres.crash)
                if with_it:
                    for process in w.processes:
                        await process.kill()
                await in_thread(crashable_postgres.start)
                [(forgotten,)] = await w.ask("SELECT count(*) FROM messaging.message_outbox WHERE NOT settled")
                if forgotten:
                    break
                if with_it:
                    await w.dispatcher()
            await w.ask("ALTER SYSTEM RESET ALL")
            await w.ask("SELECT pg_reload_conf()")
            if with_it:
                await w.dispatcher()
            w.load.start()
            fault.heal()
        print(f"{forgotten} settled rows were forgotten")  # noqa: T201
        assert forgotten > 0


@pytest.mark.promise("postgres-outage")
async def test_down_for_30_s(world: StartWorld, crashable_postgres: EmbeddedPostgres) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Postgres down for 30 s", stolen=True) as fault:
            await in_thread(crashable_postgres.stop)
            until_then = time.monotonic() + 30.0
            while time.monotonic() < until_then:
                assert await one.health() == 200
                await pass_time(0.5)
            await in_thread(crashable_postgres.start)
            fault.heal()


@pytest.mark.promise("postgres-outage")
async def test_table_locked_for_10_s(world: StartWorld) -> None:
    """Longer than the lease, and begun between publish and settle: its own rows are overdue when the lock is gone."""
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("ACCESS EXCLUSIVE on the outbox for 10 s") as fault:
            async with await psycopg.AsyncConnection.connect(w.admin_url) as other, other.transaction():
                await after_publish(w, one)
                await other.execute("LOCK TABLE messaging.message_outbox IN ACCESS EXCLUSIVE MODE")
                one.redis.let_go("to_client")
                await pass_time(10.0)
            fault.heal()


@pytest.mark.promise("postgres-outage")
async def test_connection_limit_0(world: StartWorld) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("connection limit 0, sessions terminated", stolen=True) as fault:
            await w.ask(f"ALTER ROLE {RELAY} CONNECTION LIMIT 0")
            try:
                await w.end_sessions("dispatcher %")
                await one.child.line("no connection left")
                await pass_time(5.0)
            finally:
                await w.ask(f"ALTER ROLE {RELAY} CONNECTION LIMIT -1")
            fault.heal()


@pytest.mark.promise("one-entry")
async def test_a_low_id_commits_late(world: StartWorld) -> None:
    async with world() as w:
        await w.dispatcher()
        async with w.survives("a low id commits 10 s late") as fault:
            late = str(uuid4())
            async with await psycopg.AsyncConnection.connect(w.admin_url) as other:
                await other.execute(INSERT, {"events": [late], "types": ["order.created"], "prefix": "late"})
                await pass_time(10.0)
                await other.commit()
            w.load.ledger.acknowledged[late] = time.time()
            fault.heal()

            async def found() -> list[float]:
                return [added for event, added in await w.entries() if event == late]

            [added] = await until(found, "it is in the stream")
        print(f"the late row was in the stream {added - w.load.ledger.acknowledged[late]:.3f} s after its commit")  # noqa: T201
