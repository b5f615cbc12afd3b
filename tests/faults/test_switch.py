"""Postgres is switched behind one address: the old primary takes no more writes, and keeps the sessions it has.

A session to it works: it answers, and hears nothing of what happens on the new primary. Every one has to be replaced.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from dispatcher.infra.sqlfiles import load
from tests.support.child import start_child
from tests.support.faults.oracle import SLACK_S
from tests.support.faults.standby import Pair, StartPair
from tests.support.faults.world import RELAY, StartWorld, World
from tests.support.proxy import Proxy
from tests.support.waiting import becomes, until

PURPOSES = {"control", "upkeep", "chores", "handlers", "api", "lane-0", "lane-1", "lane-2"}
RECOVER_S = 5.0 + SLACK_S
SESSIONS = (
    "SELECT application_name FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name LIKE 'dispatcher %%'"
)
HANDLERS = """
from dispatcher.handlers import handler

@handler("customer.greeted")
def greeted(payload):
    print("greeted", payload["customer"], flush=True)
"""
GREET = (
    "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) "
    """VALUES ('customer.greeted', 'c1', '{"customer": "c1"}')"""
)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """With a tick that no test waits for: only a listener on the new primary can wake a dispatcher."""
    (tmp_path / "shop.py").write_text(HANDLERS)
    return {"DISPATCH_HANDLERS": "shop", "PYTHONPATH": str(tmp_path), "DISPATCH_TICK_MS": "60000"}


@asynccontextmanager
async def two_dispatchers(w: World, p: Pair) -> AsyncIterator[tuple[Proxy, psycopg.AsyncConnection[Any]]]:
    """Two of them behind one address; the proxy that is this address, and a session of ours to the old primary."""
    front = await w.proxy(w.admin_url)
    url = front.via(w.admin_url).replace("postgres@", f"{RELAY}@")
    for _ in range(2):
        await w.dispatcher(DATABASE_URL=f"{url}?sslmode=disable&gssencmode=disable")
    async with await psycopg.AsyncConnection.connect(w.admin_url, autocommit=True) as old:
        await becomes(lambda: sessions(w, old), all_sessions(w), "sessions at the old primary")
        yield front, old


def all_sessions(w: World) -> set[tuple[str, str]]:
    """The purpose and the token of each session that the dispatchers should have."""
    return {(purpose, process.token) for process in w.processes for purpose in PURPOSES}


async def sessions(w: World, server: psycopg.AsyncConnection[Any], *, ask: bool = True) -> set[tuple[str, str]]:
    """The purpose and the token of each session that dispatchers have there."""
    if ask:
        await ask_the_apis(w)
    rows = await (await server.execute(SESSIONS)).fetchall()
    return {(words[1], words[2]) for words in (name.split(" ") for (name,) in rows)}


async def ask_the_apis(w: World) -> None:
    """Its session for people is opened, and found to be of no use, when somebody asks."""
    async with aiohttp.ClientSession() as client:
        for process in w.processes:
            async with client.get(f"{process.child.http_url}/api/dead-events") as answer:
                await answer.read()


async def switch(p: Pair, front: Proxy, paused: bool) -> list[dict[str, Any]]:
    """`dispatcher pause` or `resume` through that address: what each dispatcher said."""
    command = await start_child(
        "pause" if paused else "resume", "--json", env={"DATABASE_URL": front.via(p.standby_url())}
    )
    code = await command.wait()
    assert code == 0, command.output
    said: list[dict[str, Any]] = json.loads(command.lines[-1])["dispatchers"]
    return said


@pytest.mark.promise("postgres-failover")
async def test_every_session_leaves_the_old_primary(
    world: StartWorld, pair: StartPair, settings: dict[str, str]
) -> None:
    async with world(**settings) as w, pair(w) as p, two_dispatchers(w, p) as (front, old):
        async with w.survives("Postgres switched behind one address", recover_s=RECOVER_S) as fault:
            await p.switch_over(front)
            fault.heal()
            await becomes(lambda: sessions(w, old, ask=False), set(), "sessions at the old primary", RECOVER_S)
            new = await w.db()
            await becomes(lambda: sessions(w, new), all_sessions(w), "sessions at the new primary", RECOVER_S)

            async def registered() -> set[str]:
                return {name for _, name, *_ in await w.ask(load("status_dispatchers"))}

            names = {process.name for process in w.processes}
            await becomes(registered, names, "dispatchers with their lock at the new primary", RECOVER_S)
        await w.ask(GREET)  # all is quiet: somebody has to be rung for this one

        async def greeted() -> bool:
            return any("greeted c1" in process.child.output for process in w.processes)

        await until(greeted, "the handler of one that was rung is called", RECOVER_S)
        assert [said["acknowledged"] for said in await switch(p, front, True)] == [True, True]


@pytest.mark.promise("postgres-failover")
async def test_a_pause_right_after_it_waits_for_all_dispatchers(
    world: StartWorld, pair: StartPair, settings: dict[str, str]
) -> None:
    """Those on their way to the new primary too."""
    async with world(**settings) as w, pair(w) as p, two_dispatchers(w, p) as (front, old):
        w.load.start()
        await w.flowing()
        await p.switch_over(front)
        said = await switch(p, front, True)
        published = len(await w.entries())
        assert {each["name"]: each["acknowledged"] for each in said} == {process.name: True for process in w.processes}
        await w.commits(100)
        await becomes(lambda: sessions(w, old), set(), "sessions at the old primary", RECOVER_S)
        await w.commits(100)
        assert len(await w.entries()) == published
        await switch(p, front, False)
        await w.load.stop()
        await w.drained()
        events = [event for event, _ in await w.entries()]
        assert len(events) == len(set(events))
        assert w.load.ledger.acknowledged.keys() <= set(events)
