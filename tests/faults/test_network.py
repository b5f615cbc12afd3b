"""The network between: half-open connections, lost answers, lost notifications, a pooler."""

from functools import partial
from pathlib import Path
from random import Random

import anyio
import psycopg
import pytest

from dispatcher.core.errors import SessionLost
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.target import PostgresTarget
from tests.support.faults.pgwire import LoseNotifications, StopClaim
from tests.support.faults.steps import before_the_answer
from tests.support.faults.world import RELAY, StartWorld
from tests.support.pgbouncer import listens_at, pgbouncer
from tests.support.waiting import until


@pytest.mark.promise("postgres-outage")
async def test_half_open_postgres(world: StartWorld) -> None:
    """Its connections deliver nothing any more, and neither end is told; new ones work.

    A statement may take 20 s here: found out one after another, its sessions would be back after a minute and a half.
    """
    async with world(DISPATCH_QUERY_TIMEOUT_MS="20000") as w:
        one = await w.dispatcher()
        async with w.survives("Postgres: half-open connections", stolen=True) as fault:
            one.postgres.lose_links()
            fault.heal()
            await w.flowing(fault.healed or 0.0, 18.0)
            one.postgres.cut_lost()


@pytest.mark.promise("postgres-outage")
@pytest.mark.quick
async def test_half_open_postgres_while_a_claim_waits(world: StartWorld) -> None:
    """The relay waits for a claim, so it asks nothing else, and a statement may take ten minutes here."""
    async with world(DISPATCH_QUERY_TIMEOUT_MS="600000") as w:
        trap = StopClaim(session="lane")
        one = await w.dispatcher(filtered=trap)
        async with w.survives("Postgres: half-open connections during a claim", stolen=True) as fault:
            await before_the_answer(w, one, trap)
            one.postgres.lose_links()
            one.postgres.let_go("to_client")
            fault.heal()
            await w.flowing(fault.healed or 0.0, 60.0)
            one.postgres.cut_lost()


@pytest.mark.promise("redis-outage")
async def test_half_open_redis(world: StartWorld) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Redis: half-open connections") as fault:
            one.redis.lose_links()
            fault.heal()
            await w.flowing(fault.healed or 0.0)
            one.redis.cut_lost()


@pytest.mark.promise("postgres-outage")
@pytest.mark.quick
async def test_answers_of_postgres_lost(world: StartWorld) -> None:
    """Its statements commit, the answers are lost: claims it does not know of, settles it cannot be sure of."""
    async with world() as w:
        trap = StopClaim()
        one = await w.dispatcher(filtered=trap)
        async with w.survives("Postgres: the answers to its commits lost", stolen=True) as fault:
            await before_the_answer(w, one, trap)
            one.postgres.drop_replies()
            await one.postgres.restore()
            fault.heal()


@pytest.mark.promise("one-entry")
async def test_the_answer_to_a_producers_commit_lost(world: StartWorld) -> None:
    async with world() as w:
        between = await w.proxy(w.admin_url)
        w.load.url, w.load.plain = between.via(w.admin_url), True
        await w.dispatcher()
        async with w.survives("a producer's commit: the answer lost") as fault:
            between.drop_replies()
            looks = [-1]  # how many commits had been heard of: an answer may have been on its way

            async def unheard() -> bool:
                [(rows,)] = await w.ask("SELECT count(*) FROM messaging.message_outbox")
                looks.append(len(w.load.ledger.acknowledged))
                return bool(rows > looks[-1] == looks[-2])

            await until(unheard, "a commit its producer does not hear of")
            await between.restore()
            fault.heal()
        assert w.load.ledger.unknown


@pytest.mark.promise("wake")
async def test_notifications_lost(world: StartWorld) -> None:
    """As behind a transaction pooler, begun in mid-flight: the tick carries on, and the listener comes back."""
    async with world() as w:
        wire = LoseNotifications(losing=False)
        one = await w.dispatcher(filtered=wire)
        async with w.survives("notifications swallowed") as fault:
            wire.losing = True
            await one.child.line("listener_down")
            before = len(await w.entries())
            await w.commits(100)

            async def polled() -> bool:
                return len(await w.entries()) >= before + 100

            await until(polled, "rows go out on the tick")
            wire.losing = False
            fault.heal()

            async def listens() -> bool:
                return await one.events("listener_up") == 2

            await until(listens, "it listens again")
        assert wire.lost > 0


@pytest.mark.promise("no-trigger")
@pytest.mark.parametrize("direct", [True, False], ids=["listening directly", "listening through it"])
@pytest.mark.parametrize("order", ["none"])  # with an order it ends at the start, and says why
async def test_through_pgbouncer(world: StartWorld, server_folder: Path, direct: bool) -> None:
    async with world() as w:
        with pgbouncer(server_folder / f"pgbouncer-{direct}", w.admin_url, user=RELAY) as pooled:
            straight = w.admin_url.replace("postgres@", f"{RELAY}@")
            urls = {"DATABASE_URL": pooled} | ({"DISPATCH_LISTEN_URL": straight} if direct else {})
            one = await w.dispatcher(ready=direct, **urls)
            await one.child.line("listener_up" if direct else "transaction pooler")
            how = "listening directly" if direct else "LISTEN deaf"
            async with w.survives(f"a real PgBouncer, transaction mode, {how}", baseline=False) as fault:
                await w.backlog(2000)
                fault.heal()
            assert await one.child.terminate() == 0


@pytest.mark.promise("postgres-outage")
async def test_through_pgbouncer_that_keeps_sessions(world: StartWorld, server_folder: Path) -> None:
    """Its session mode, as Supabase's pooler for IPv4 has it: it is as good as none."""
    async with world() as w:
        with pgbouncer(server_folder / "pgbouncer-keeps", w.admin_url, user=RELAY, mode="session") as kept:
            one = await w.dispatcher(DATABASE_URL=kept)
            await one.child.line("listener_up")
            async with w.survives("a real PgBouncer, session mode") as fault:
                await w.backlog(2000)
                fault.heal()
            [(locked,)] = await w.ask(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1869968483"
            )
            assert locked == 1
            assert await one.child.terminate() == 0


@pytest.mark.promise("postgres-outage")
async def test_what_pgbouncer_says_of_a_server_that_took_no_writes_once(world: StartWorld, server_folder: Path) -> None:
    """It greets with what its first connection to the server said: that is no reason to leave the server of today."""
    async with world() as w, await psycopg.AsyncConnection.connect(w.admin_url, autocommit=True) as admin:
        await admin.execute(f"ALTER ROLE {RELAY} SET default_transaction_read_only = on")
        with pgbouncer(server_folder / "pgbouncer-greets", w.admin_url, user=RELAY) as pooled:
            await until(partial(listens_at, pooled), "PgBouncer listens")
            async with await psycopg.AsyncConnection.connect(pooled) as early:
                assert early.info.parameter_status("default_transaction_read_only") == "on"
            await admin.execute(f"ALTER ROLE {RELAY} RESET default_transaction_read_only")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [RELAY])
            lane = ReconnectingSession(PostgresTarget(pooled, "test"), "lane", rng=Random(1))
            async with anyio.create_task_group() as tasks:
                await tasks.start(lane.keep)
                session = await lane.get()
                greeted = session._connection.info.parameter_status("default_transaction_read_only")
                assert (session.pooled, greeted) == (True, "on")
                assert await session.fetch("SELECT 1") == [(1,)]
                with pytest.raises(SessionLost, match="read-only"):  # what the server itself says counts
                    await session.fetch("DO $$ BEGIN SET LOCAL transaction_read_only = on; CREATE TABLE t (); END $$")
                tasks.cancel_scope.cancel()
