"""Rows that cannot be read: times that Python lacks (written while our triggers were off), characters that UTF-8 lacks.

None of them stops the others.
"""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.handlers import Event
from dispatcher.infra.postgres.migrations import migrate
from tests.support.command import RunCommand
from tests.support.handlers import MakeModule
from tests.support.postgres import Databases
from tests.support.rows import insert_events, one_row, read_stream
from tests.support.running import StartDispatcher
from tests.support.waiting import until

LEASE_MS = 3000
ALL_SENT = "SELECT 1 FROM messaging.message_outbox HAVING count(*) FILTER (WHERE status = 'sent') = 5"
BY_HAND = "status = 'picked', picked_by = NULL, claim_id = {}, picked_at = {}"
COLUMNS = ["payload", "headers", "event_type", "aggregate_type", "aggregate_id"]
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


@pytest.mark.both_versions
async def test_a_retry_of_a_far_future_stops_no_takeover(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any], redis: "Redis"
) -> None:
    """What it was to be rescheduled to was out of Postgres's range: the check for dead claims was refused for ever."""
    [odd, picked] = await insert_events(db, 2)
    await db.execute("SET session_replication_role = replica")
    retried = "status = 'retry', attempts = 1, picked_at = '20000-01-01', next_run_at = now() + interval '1 hour'"
    await db.execute(f"UPDATE messaging.message_outbox SET {retried} WHERE id = {odd}".encode())
    by_hand = BY_HAND.format("gen_random_uuid()", "now()") + ", stream_id = '0-0'"
    await db.execute(f"UPDATE messaging.message_outbox SET {by_hand} WHERE id = {picked}".encode())
    async with dispatcher(tick_ms=100, lease_ms=LEASE_MS):
        sent = f"SELECT 1 FROM messaging.message_outbox WHERE id = {picked} AND status = 'sent'"
        await until(lambda: one_row(db, sent), "the other row is taken over")
    assert len(await read_stream(redis)) == 1


@pytest.fixture
async def win1252(postgres: Databases, db: psycopg.AsyncConnection[Any]) -> AsyncIterator[str]:
    """The URL of a database in WIN1252, migrated."""
    name = f"{db.info.dbname}_1252"
    await db.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'WIN1252' LOCALE 'C'".encode())
    try:
        await migrate(postgres.url(name))
        yield postgres.url(name)
    finally:
        postgres.drop(name)


async def _insert_odd(there: psycopg.AsyncConnection[Any], column: str, others: str = "") -> int:
    """Insert 5 events, one of them with a byte in this column that UTF-8 lacks; returns its id.

    `others`: what else is set in all, with triggers off.
    """
    ids = await insert_events(there, 5, event_type="größe", aggregate_type="ä")
    await there.execute("SET session_replication_role = replica")
    if others:
        await there.execute(f"UPDATE messaging.message_outbox SET {others}".encode())
    await there.execute("SET client_encoding = 'WIN1252'")
    value = b'{"a": "\x81"}' if column in ("payload", "headers") else b"a\x81"
    update = b"UPDATE messaging.message_outbox SET %b = '%b' WHERE id = %d" % (column.encode(), value, ids[2])
    done = there.pgconn.exec_(update)
    assert done.command_tuples == 1, done.error_message
    await there.execute("RESET session_replication_role")
    return ids[2]


@pytest.mark.parametrize("order", ["none", "aggregate"])
@pytest.mark.parametrize("column", COLUMNS)
async def test_a_character_that_utf8_lacks_costs_its_row_alone(
    win1252: str, redis: "Redis", dispatcher: StartDispatcher, column: str, order: str
) -> None:
    """Each claim that took it was refused ("has no equivalent in encoding UTF8"), so nothing went out."""
    async with await psycopg.AsyncConnection.connect(win1252, autocommit=True) as there:
        odd = await _insert_odd(there, column)
        async with dispatcher(database_url=win1252, tick_ms=100, order=order):
            await until(lambda: one_row(there, SETTLED), "all are settled")
        [(dead, error)] = await (
            await there.execute("SELECT outbox_id, last_error FROM messaging.message_dlq")
        ).fetchall()
    assert dead == odd
    assert "characters that UTF-8 lacks" in error
    names = [(entry["event_type"], entry["aggregate_type"]) for entry in await read_stream(redis)]
    assert names == [("größe", "ä")] * 4


async def test_a_takeover_of_a_character_that_utf8_lacks(
    win1252: str, redis: "Redis", dispatcher: StartDispatcher
) -> None:
    """The takeover was refused each time, so all rows of that claim stayed picked."""
    async with await psycopg.AsyncConnection.connect(win1252, autocommit=True) as there:
        picked = BY_HAND.format("'11111111-1111-1111-1111-111111111111'", "now()") + ", stream_id = '0-0'"
        odd = await _insert_odd(there, "event_type", picked)
        async with dispatcher(database_url=win1252, tick_ms=100, lease_ms=LEASE_MS):
            await until(lambda: one_row(there, SETTLED), "all are settled")
        assert await one_row(there, "SELECT 1 FROM messaging.message_dlq HAVING max(outbox_id) = %s", odd)
    assert len(await read_stream(redis)) == 4


async def test_an_error_with_a_character_that_the_database_lacks_is_written_in_ascii(
    win1252: str, dispatcher: StartDispatcher, handlers_module: MakeModule
) -> None:
    """The settle was refused for ever; after four such batches nothing was claimed."""

    def fail(_: Event) -> None:
        raise ValueError("\u2192")

    name = handlers_module({"order.created": fail})
    async with await psycopg.AsyncConnection.connect(win1252, autocommit=True) as there:
        await insert_events(there, 2)
        async with dispatcher(database_url=win1252, tick_ms=100, handlers=name, max_attempts=1):
            await until(lambda: one_row(there, SETTLED), "all are settled")
        errors = await (await there.execute("SELECT last_error FROM messaging.message_dlq")).fetchall()
    assert [error for (error,) in errors] == ["ValueError: " + r"\u2192"] * 2
