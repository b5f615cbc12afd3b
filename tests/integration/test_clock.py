"""Postgres's clock is really set while a dispatcher works: nothing waits for it, nothing is lost, doubled or stolen."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Settled, TakenOver
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.decide import Decision, decide
from dispatcher.ops.doctor import activity
from dispatcher.ops.replay import ReplaySession, Selection
from tests.support.clock import ClockedPostgres, StartClocked
from tests.support.dead_letters import bury
from tests.support.readme import page
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import until

pytestmark = [pytest.mark.promise("clock")]
STEPS = [-3600, -60, 60, 3600]


@pytest.fixture
async def clocked(clocked_postgres: StartClocked) -> ClockedPostgres:
    started = clocked_postgres()
    await migrate(started.url)
    return started


@pytest.fixture
async def clocked_db(clocked: ClockedPostgres) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(clocked.url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("step_s", STEPS)
async def test_rows_of_before_go_out_first_and_at_once(
    step_s: int, clocked: ClockedPostgres, clocked_db: Any, dispatcher: StartDispatcher, redis: "Redis"
) -> None:
    before = await insert_events(clocked_db, 300)
    clocked.set_clock(step_s)
    after = await insert_events(clocked_db, 300)
    async with dispatcher(database_url=clocked.url, batch_size=100) as running:
        await running.tap.add_up(Settled, sent=600)
    published = [entry["event_id"] for entry in await read_stream(redis)]
    rows = {str(row["event_id"]): row["id"] for row in await read_table(clocked_db)}
    assert [rows[event] for event in published] == [*before, *after]


@pytest.mark.parametrize("step_s", STEPS)
async def test_a_dispatcher_works_on_through_it(
    step_s: int, clocked: ClockedPostgres, clocked_db: Any, dispatcher: StartDispatcher, redis: "Redis"
) -> None:
    """Two of them, on leases shorter than the step: neither may take the other for frozen."""
    settings = {"database_url": clocked.url, "lease_ms": 30_000, "tick_ms": 100}
    async with dispatcher(**settings) as one, dispatcher(**settings) as other:
        for ahead_s in (step_s, 0, step_s):
            await insert_events(clocked_db, 100)
            clocked.set_clock(ahead_s)
            await insert_events(clocked_db, 100)

            async def all_sent() -> bool:
                return set(await statuses(clocked_db)) == {"sent"}

            await until(all_sent, "all are sent")
        assert not one.tap.all(TakenOver) + other.tap.all(TakenOver)
    published = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(published) == len(set(published)) == 600


async def test_a_retry_waits_no_longer_for_it(
    clocked: ClockedPostgres, clocked_db: Any, dispatcher: StartDispatcher, redis: "Redis"
) -> None:
    clocked.set_clock(86_400)
    await insert_events(clocked_db, 2)
    await clocked_db.execute(
        "UPDATE messaging.message_outbox SET status = 'retry', attempts = 1, last_error = 'refused', "
        "picked_at = clock_timestamp(), next_run_at = clock_timestamp() + interval '1 second'"
    )
    clocked.set_clock(0)
    async with dispatcher(database_url=clocked.url, lease_ms=1000, tick_ms=100) as running:
        await running.tap.add_up(Settled, sent=2)
    assert len(await read_stream(redis)) == 2


@pytest.mark.parametrize("how", ["replay", "replay in SQL", "retry", "a failed attempt"])
async def test_doctor_names_what_was_put_back_while_it_was_ahead(
    how: str, clocked: ClockedPostgres, clocked_db: Any, dispatcher: StartDispatcher, redis: "Redis"
) -> None:
    target = PostgresTarget(clocked.url, "test", query_timeout_s=30.0)
    ids = await insert_events(clocked_db, 3)
    await insert_events(clocked_db, next_run_at="9000-01-01 00:00:00+00")  # its producer's wish
    claim_id = str(uuid4())
    if how.startswith("replay"):
        async with dispatcher(database_url=clocked.url) as running:
            await running.tap.add_up(Settled, sent=3)
    elif how == "retry":
        await bury(clocked_db, ids)
    else:
        await clocked_db.execute(
            "UPDATE messaging.message_outbox SET status = 'picked', picked_at = clock_timestamp(), claim_id = %s "
            "WHERE id = ANY (%s)",
            [claim_id, ids],
        )
    clocked.set_clock(86_400)
    session = await connect(target, "test")
    if how == "replay":
        async with ReplaySession(target) as replay:
            await replay.put_back(await replay.find(Selection()), lambda done: None)
    elif how == "replay in SQL":
        [statement] = re.findall(r"```sql\n(UPDATE.*?);", page("runbook/replay.md"), re.DOTALL)
        await clocked_db.execute(statement.replace("5 minutes", "2 days"))
    elif how == "retry":
        assert (await decide(session.fetch, ids, Decision("retry"))).ids == tuple(ids)
    else:
        failed = {"claim_id": claim_id, "ids": ids, "delays": [1.0] * 3, "errors": ["refused"] * 3, "costs": [1] * 3}
        assert len(await session.fetch(load("settle_retry"), failed | {"places": [None] * 3, "now": None})) == 3
    clocked.set_clock(0)
    found = await activity.backlog(session)
    assert found.level == "bad"
    assert found.found.startswith("3 rows in the future, by up to 86")
    [remedy] = re.findall("UPDATE .*", str(found.remedy))
    assert (await clocked_db.execute(remedy)).rowcount == 3
    assert (await activity.backlog(session)).level == "ok"
    await session.close()
    async with dispatcher(database_url=clocked.url) as running:
        await running.tap.add_up(Settled, sent=3)
    assert await statuses(clocked_db) == {"sent": 3, "pending": 1}
    assert len(await read_stream(redis)) == (6 if how.startswith("replay") else 3)
