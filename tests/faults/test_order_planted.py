"""Planted faults: a dispatcher with a part of the order left out must be caught, or the harness proves nothing."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.faults.test_rows import MIB, no_large_strings
from tests.support.faults.pgwire import StopClaim
from tests.support.faults.planted import GATE
from tests.support.faults.process import Process
from tests.support.faults.steps import before_publish
from tests.support.faults.world import Fault, StartWorld, World
from tests.support.proxy import Direction, Filter
from tests.support.waiting import until

CAUGHT = r"came after a later one of their aggregate|\d+ duplicates"
PICKED = "SELECT id FROM messaging.message_outbox WHERE status = 'picked'"
OVERTAKEN = (
    "SELECT 1 FROM messaging.message_outbox AS o JOIN messaging.message_outbox AS later "
    "ON later.aggregate_id = o.aggregate_id AND later.id > o.id AND later.settled WHERE o.id = ANY (%s) LIMIT 1"
)
STALL = 4711  # the advisory lock at which the claims of one dispatcher wait, after they have locked their rows
PATIENT = {
    "DISPATCH_PUBLISH_TIMEOUT_MS": "20000",
    "DISPATCH_QUERY_TIMEOUT_MS": "20000",
    "DISPATCH_LEASE_MS": "60000",
}


@pytest.fixture(autouse=True)
def _in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "in_order", True)


@asynccontextmanager
async def caught(w: World, name: str, **allowed: Any) -> AsyncIterator[Fault]:
    """As World.survives, and the order must be found broken."""
    complaint = None
    try:
        async with w.survives(f"planted: {name}", **allowed) as fault:
            yield fault
    except AssertionError as problems:
        complaint = str(problems)
    assert complaint is not None, "nobody noticed"
    assert re.search(CAUGHT, complaint), complaint


@pytest.mark.promise("in-order")
@pytest.mark.quick
async def test_a_handover_without_drain(world: StartWorld) -> None:
    """Entries of the first are on their way while the second joins, and gets half of its slots."""
    async with world(**PATIENT) as w:
        one = await w.dispatcher(planted="handover without drain")
        async with caught(w, "a handover without drain") as fault:
            await w.backlog(2000)  # so that its batch has rows of many slots, some of which move
            await before_publish(w, one)
            held = [row_id for (row_id,) in await w.ask(PICKED)]
            two = await w.dispatcher(planted="handover without drain")
            await until(lambda: w.owns_slots(two), "the second owns slots")
            await until(lambda: w.ask(OVERTAKEN, (held,)), "the second has sent a later event of an aggregate")
            one.redis.let_go("to_server")
            fault.heal()


@pytest.mark.promise("in-order")
async def test_no_revocation_before_the_fence(world: StartWorld) -> None:
    """One that was fenced, and owns its slots still, claims while they are freed."""
    async with world(**PATIENT) as w:
        await w.dispatcher()
        async with caught(w, "no revocation before the fence", stolen=True) as fault:
            await _is_fenced_and_goes_on(w, "no revocation before the fence", claims=True)
            fault.heal()


@pytest.mark.promise("in-order")
async def test_the_same_with_the_revocation_first(world: StartWorld) -> None:
    """So it is the revocation that keeps the order there."""
    async with world(**PATIENT) as w:
        await w.dispatcher()
        async with w.survives("a dispatcher has no control session, its successor stalls", stolen=True) as fault:
            await _is_fenced_and_goes_on(w, "nothing, but it stalls after the fence", claims=False)
            fault.heal()


async def _is_fenced_and_goes_on(w: World, planted: str, *, claims: bool) -> None:
    """The first has no control session any more, so it looks dead, but its lanes live. It was fenced; then its claim
    stalls with rows locked, until the second, who owns its slots now, has looked what is held in them. `claims`: it
    does claim."""
    one, trap = w.processes[0], StopClaim("dispatcher lane-")
    db = await w.db()
    await db.execute(GATE)
    one.postgres.make_filter = _no_control_session
    one.postgres.cut()
    two = await w.dispatcher(planted=planted, filtered=trap)
    await until(lambda: _runs(w, two, "%FROM audit.gate"), "the second has fenced the first, and stalls")
    async with _claims_stall(w, one) as let_go:
        await until(lambda: _runs(w, one, "%", "lane"), "the first is there again")
        await w.commits(60)
        if claims:
            await until(lambda: _stalls(w), "the claim of the first stalls")
        await w.commits(400)
        trap.arm(two.postgres, "to_server")
        await db.execute("INSERT INTO audit.gate VALUES (true)")
        await until(trap.sprung, "the second is about to claim")
        one.redis.hold("to_server")
        await let_go()
        if claims:
            await until(lambda: w.ask(PICKED), "the claim of the first has committed")
    of_one = [row_id for (row_id,) in await w.ask(PICKED)]
    two.postgres.let_go("to_server")
    if claims:
        await until(lambda: w.ask(OVERTAKEN, (of_one,)), "the second has sent a later event of an aggregate")
    one.redis.let_go("to_server")
    one.postgres.make_filter = None


def _no_control_session() -> Filter:
    def pass_on(direction: Direction, data: bytes) -> bytes:
        if direction == "to_server" and b"dispatcher control " in data:
            raise ConnectionAbortedError
        return data

    return pass_on


async def _runs(w: World, one: Process, query: str, session: str = "") -> bool:
    asked = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE %s AND query LIKE %s LIMIT 1"
    return bool(await w.ask(asked, (f"dispatcher {session}% {one.token} %", query)))


@asynccontextmanager
async def _claims_stall(w: World, one: Process) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Within the block its claims lock their rows and wait, until what it yields is called."""
    async with await psycopg.AsyncConnection.connect(w.admin_url, autocommit=True) as connection:
        await connection.execute(f"SELECT pg_advisory_lock({STALL})")
        await connection.execute(
            "CREATE FUNCTION audit.stall() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN PERFORM pg_advisory_xact_lock_shared({STALL}); RETURN NEW; END $$; "
            "CREATE TRIGGER stall BEFORE UPDATE ON messaging.message_outbox FOR EACH ROW "
            "WHEN (NEW.status = 'picked' AND OLD.status <> 'picked' "
            f"AND current_setting('application_name') LIKE 'dispatcher lane-% {one.token} %') "
            "EXECUTE FUNCTION audit.stall()".encode()
        )

        async def let_go() -> None:
            await connection.execute(f"SELECT pg_advisory_unlock({STALL})")

        yield let_go
        await connection.execute("DROP TRIGGER stall ON messaging.message_outbox")


async def _stalls(w: World) -> bool:
    return bool(
        await w.ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted", (STALL,))
    )


@pytest.mark.promise("in-order")
async def test_no_held_set(world: StartWorld) -> None:
    """One event of each aggregate fails until its retry; those behind it must wait."""
    async with world(DISPATCH_MAX_ATTEMPTS="50", DISPATCH_BACKOFF_MAX_MS="500") as w:
        one = await w.dispatcher(planted="no held set")
        one.redis.make_filter = no_large_strings
        async with caught(w, "no held set", attempts=True) as fault:
            one.redis.cut()  # from here on the filter is between
            await _one_large_among(w)
            await until(lambda: w.ask("SELECT 1 FROM messaging.message_outbox WHERE attempts > 0"), "it failed")
            await w.commits(60)
            one.redis.make_filter = None
            one.redis.cut()
            fault.heal()


async def _one_large_among(w: World) -> None:
    insert = (
        "INSERT INTO messaging.message_outbox (event_id, event_type, aggregate_id, payload) VALUES (%s, %s, %s, %s)"
    )
    async with await psycopg.AsyncConnection.connect(w.admin_url) as connection:
        for number in range(20):
            payload = json.dumps({"x": "y" * (MIB // 8)}) if number == 5 else "{}"
            await connection.execute(insert, (str(uuid4()), "order.created", "large", payload))


@pytest.mark.promise("in-order")
async def test_no_multi(world: StartWorld) -> None:
    """Redis is full: of a pipeline it refuses some entries, and takes later ones."""
    async with world(DISPATCH_BATCH_SIZE="256") as w:
        await w.dispatcher(planted="no MULTI")
        async with caught(w, "no MULTI", baseline=False) as fault:
            for _ in range(20):
                await w.fill(2000)
                if (await w.disorder()).overtaken:
                    break
            fault.heal()
