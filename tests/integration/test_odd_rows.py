"""Rows that cannot be read: times that Python lacks (written while our triggers were off), characters that UTF-8 lacks.

None of them stops the others.
"""

from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.infra.postgres.migrations import migrate
from tests.support.command import RunCommand
from tests.support.postgres import Databases
from tests.support.rows import insert_events, one_row, read_stream
from tests.support.running import StartDispatcher
from tests.support.waiting import until

LEASE_MS = 3000
ALL_SENT = "SELECT 1 FROM messaging.message_outbox HAVING count(*) FILTER (WHERE status = 'sent') = 5"
BY_HAND = "status = 'picked', picked_by = NULL, claim_id = {}, picked_at = {}"
SETTLED = "SELECT 1 FROM messaging.message_outbox HAVING bool_and(settled)"


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


@pytest.mark.parametrize("column", ["payload", "headers"])
async def test_a_character_that_utf8_lacks_costs_its_row_alone(
    postgres: Databases, db: psycopg.AsyncConnection[Any], dispatcher: StartDispatcher, column: str
) -> None:
    """Each claim that took it was refused ("has no equivalent in encoding UTF8"), so nothing went out."""
    name = f"{db.info.dbname}_1252"
    await db.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'WIN1252' LOCALE 'C'".encode())
    try:
        url = postgres.url(name)
        await migrate(url)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as there:
            ids = await insert_events(there, 5)
            await there.execute("SET client_encoding = 'WIN1252'")
            odd = b"""UPDATE messaging.message_outbox SET %b = '{"a": "\x81"}' WHERE id = %d""" % (
                column.encode(),
                ids[2],
            )
            there.pgconn.exec_(odd)
            async with dispatcher(database_url=url, tick_ms=100):
                await until(lambda: one_row(there, SETTLED), "all are settled")
            [(dead, error)] = await (
                await there.execute("SELECT outbox_id, last_error FROM messaging.message_dlq")
            ).fetchall()
            assert dead == ids[2]
            assert "characters that UTF-8 lacks" in error
    finally:
        postgres.drop(name)
