"""Postgres's clock is really set while a dispatcher works: nothing waits for it, nothing is lost, doubled or stolen."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Settled, TakenOver
from dispatcher.infra.postgres.migrations import migrate
from tests.support.clock import ClockedPostgres, StartClocked
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
