"""Fresh rows, which nobody scheduled, and rows that fell due do not starve each other."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Claimed, Settled
from tests.support.rows import insert_events, read_stream, read_table
from tests.support.running import StartDispatcher

BATCH = 100


async def places(db: psycopg.AsyncConnection[Any], redis: "Redis") -> dict[int, int]:
    """At which place of the stream each row is."""
    rows = {str(row["event_id"]): row["id"] for row in await read_table(db)}
    return {rows[entry["event_id"]]: place for place, entry in enumerate(await read_stream(redis))}


@pytest.mark.promise("order")
async def test_what_fell_due_goes_out_in_the_middle_of_a_backlog(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any], redis: "Redis"
) -> None:
    backlog = await insert_events(db, 4000)
    [due] = await insert_events(db, next_run_at=datetime.now(UTC) - timedelta(seconds=1))
    async with dispatcher(batch_size=BATCH) as running:
        await running.tap.add_up(Settled, sent=4001)
    found = await places(db, redis)
    assert found[due] <= 12 * BATCH
    assert [row for row in sorted(found, key=lambda row: found[row]) if row != due] == backlog


@pytest.mark.promise("order")
async def test_a_backlog_of_retries_has_its_share_beside_fresh_rows(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any], redis: "Redis"
) -> None:
    fresh = await insert_events(db, 4000)
    due = await insert_events(db, 4000, next_run_at=datetime.now(UTC) - timedelta(hours=1))
    async with dispatcher(batch_size=BATCH) as running:
        await running.tap.add_up(Settled, sent=8000)
    found = await places(db, redis)
    early = [row for row, place in found.items() if place < 3000]
    assert len(set(early) & set(due)) >= 400
    assert len(set(early) & set(fresh)) >= 1800
    for rows in (fresh, due):
        assert sorted(rows, key=lambda row: found[row]) == rows


@pytest.mark.promise("order")
async def test_a_fresh_row_does_not_wait_behind_what_fell_due_long_ago(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any], redis: "Redis"
) -> None:
    await insert_events(db, 8000, next_run_at=datetime.now(UTC) - timedelta(hours=1))
    async with dispatcher(batch_size=BATCH) as running:
        await running.tap.next(Claimed)
        [fresh] = await insert_events(db)
        published = await redis.xlen("sanctum:messages")
        await running.tap.add_up(Settled, sent=8001)
    found = await places(db, redis)
    assert found[fresh] <= published + 20 * BATCH  # those that were claimed by then, on a busy machine
