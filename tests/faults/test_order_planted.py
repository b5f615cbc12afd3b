"""Planted faults: a dispatcher with a part of the order left out must be caught, or the harness proves nothing."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.faults.test_rows import MIB, no_large_strings
from tests.support.faults.steps import before_publish
from tests.support.faults.world import Fault, StartWorld, World
from tests.support.waiting import until

CAUGHT = r"came after a later one of their aggregate|\d+ duplicates"
PATIENT = {"DISPATCH_PUBLISH_TIMEOUT_MS": "20000", "DISPATCH_LEASE_MS": "60000"}


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
            await before_publish(w, one)
            two = await w.dispatcher(planted="handover without drain")
            await until(lambda: w.owns_slots(two), "the second owns slots")
            await w.commits(150)
            one.redis.let_go("to_server")
            fault.heal()


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
