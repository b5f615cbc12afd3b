"""Postgres fails over to a standby: what it was not sent is forgotten; of what it has nothing is lost or doubled."""

import socket

import aiohttp
import pytest

from tests.support.child import start_child
from tests.support.faults.standby import StartPair
from tests.support.faults.world import RELAY, StartWorld
from tests.support.waiting import until

UNSETTLED = "SELECT count(*) FROM messaging.message_outbox WHERE NOT settled"
SYNCHRONOUS = "ALTER SYSTEM SET synchronous_standby_names = '*'"


@pytest.mark.promise("postgres-failover")
async def test_failover_to_a_standby_that_lags(world: StartWorld, pair: StartPair) -> None:
    """A thousand events are sent and settled, which the standby does not know. The old primary answers no more."""
    async with world() as w, pair(w) as p:
        front = await w.proxy(w.admin_url)
        url = p.standby_url(RELAY).replace("127.0.0.1:", f"127.0.0.1:{front.port},127.0.0.1:")
        for _ in range(2):
            await w.dispatcher(DATABASE_URL=f"{url}?sslmode=disable&gssencmode=disable&target_session_attrs=read-write")
        async with w.survives("Postgres killed, failover to a standby that lags", stolen=True, phantoms=True) as fault:
            await w.load.stop()
            await w.drained()
            for process in w.processes:
                process.freeze()
            await w.backlog(1000)
            await p.in_step()
            p.between.hold("to_client")
            for process in w.processes:
                process.thaw()
            await w.drained()
            w.load.start()
            await w.commits(100)
            with socket.create_server(("127.0.0.1", 0)) as silent:  # the host is gone: nobody says so
                front.upstream = silent.getsockname()
                lost = await p.fail_over()
                [(forgotten,)] = await w.ask(UNSETTLED)
                fault.heal()
                await w.flowing(fault.healed or 0.0)
        print(f"{len(lost)} acknowledged events were lost with the primary, {forgotten} rows to be looked for")  # noqa: T201
        assert len(lost) >= 100
        audited = [line for process in w.processes for line in process.child.lines if "postgres_crash_audited" in line]
        assert audited


@pytest.mark.promise("postgres-failover")
async def test_failover_to_a_synchronous_standby(world: StartWorld, pair: StartPair) -> None:
    """What waits for the standby is there: no acknowledged event is lost. The address leads to the new primary."""
    async with world() as w, pair(w) as p:
        for _ in range(2):
            await w.dispatcher()
        async with w.survives("Postgres killed, failover to a synchronous standby", stolen=True) as fault:
            await w.ask(SYNCHRONOUS)
            await w.ask("SELECT pg_reload_conf()")
            await until(
                lambda: w.ask("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), "it is synchronous"
            )
            await w.commits(200)
            lost = await p.fail_over()
            for process in w.processes:
                process.postgres.upstream = ("127.0.0.1", p.standby.port)
            fault.heal()
        assert lost == set()


@pytest.mark.promise("postgres-failover")
async def test_a_standby_is_named_and_nothing_is_claimed(world: StartWorld, pair: StartPair) -> None:
    """Both ways to say where it is; promoted, it is used without a restart."""
    async with world() as w, pair(w) as p:
        options = "?sslmode=disable&gssencmode=disable"
        urls = {
            p.standby_url(RELAY) + options: "is read-only: a standby",
            p.standby_url(RELAY)
            + options
            + "&target_session_attrs=read-write": "target_session_attrs asks for (read-write: no standby)",
        }
        for url, words in urls.items():
            one = await w.dispatcher(ready=False, DATABASE_URL=url)
            await one.child.line('"event": "dispatcher_started"')

            async def named(address: str = one.child.http_url, words: str = words) -> bool:
                async with aiohttp.ClientSession() as session, session.get(f"{address}/ready") as answer:
                    assert answer.status == 503
                    return words in await answer.text()

            await until(named, f"its reason says {words!r}")
            doctor = await start_child("doctor", env={"DATABASE_URL": url, "REDIS_URL": w.valkey.url})
            assert await doctor.wait() == 1
            assert "standby" in doctor.output
        await w.backlog(100)
        await p.in_step()
        assert await w.entries() == []
        w.load.start()
        await p.fail_over()
        for process in w.processes:
            await process.child.ready()
        await w.flowing()
        await w.load.stop()
        await w.drained()
        events = [event for event, _ in await w.entries()]
        assert len(events) == len(set(events))
        assert w.load.ledger.acknowledged.keys() <= set(events)
