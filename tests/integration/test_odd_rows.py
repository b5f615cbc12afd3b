"""Rows that our triggers refuse, written while they were off (by a bulk load, say): none of them stops the others."""

from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from tests.support.command import RunCommand
from tests.support.rows import insert_events, one_row, read_stream
from tests.support.running import StartDispatcher
from tests.support.waiting import until

LEASE_MS = 3000
ALL_SENT = "SELECT 1 FROM messaging.message_outbox HAVING count(*) FILTER (WHERE status = 'sent') = 5"
BY_HAND = "status = 'picked', picked_by = NULL, claim_id = {}, picked_at = {}"


@pytest.mark.both_versions
@pytest.mark.parametrize(
    "changed",
    [
        *(f"occurred_at = '{each}'" for each in ("infinity", "-infinity", "20000-01-01", "0044-03-15 BC")),
        *(f"next_run_at = '{each}'" for each in ("-infinity", "0044-03-15 BC")),
        *("attempts = -7", "attempts = 2147483647"),
        *(BY_HAND.format(claim, at) for claim in ("NULL", "gen_random_uuid()") for at in ("NULL", "'infinity'")),
    ],
)
async def test_an_odd_row_goes_out_with_the_others(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any], redis: "Redis", command: RunCommand, changed: str
) -> None:
    """A time that Python does not have ended each claim that took it; a NULL in `picked_at` ended the process."""
    await insert_events(db, 5)
    await db.execute("SET session_replication_role = replica")
    await db.execute(f"UPDATE messaging.message_outbox SET {changed} WHERE id = 3".encode())
    await db.execute("RESET session_replication_role")
    code, said = await command("status")
    assert "Traceback" not in said, code
    async with dispatcher(tick_ms=100, lease_ms=LEASE_MS):
        await until(lambda: one_row(db, ALL_SENT), "all are sent")
    assert len(await read_stream(redis)) == 5
