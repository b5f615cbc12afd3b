"""Producers: the inserts that our two source documents promise work as they stand, and so do COPY and savepoints."""

from pathlib import Path

import psycopg
import pytest

from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from tests.support.psql import psql

pytestmark = pytest.mark.both_versions

# The runbook's "Seed Outbox", to the letter.
SEED = """\
INSERT INTO messaging.message_outbox (event_id, message_id, event_type, aggregate_id, payload)
VALUES (gen_random_uuid(), gen_random_uuid(), 'MessageCreated', gen_random_uuid(), '{"test": true}');
"""
# As Dispatchbox's own generator writes it: no message_id, ids that are text, the queue's columns spelt out.
DISPATCHBOX = (
    "INSERT INTO messaging.message_outbox "
    "(aggregate_type, aggregate_id, event_type, payload, status, attempts, next_run_at) "
    "VALUES ('order', '12345', 'order.created', '{\"orderId\": \"12345\"}', 'pending', 0, now())"
)


async def rows(db: psycopg.AsyncConnection, what: str) -> list[tuple[object, ...]]:
    return await (await db.execute(f"SELECT {what} FROM messaging.message_outbox ORDER BY id")).fetchall()


async def test_the_runbooks_seed(database_url: str, db: psycopg.AsyncConnection) -> None:
    psql(database_url, text=SEED)
    shape = "event_type, aggregate_type, payload, headers, status, attempts, settled, next_run_at <= clock_timestamp()"
    assert await rows(db, shape) == [("MessageCreated", "message", {"test": True}, None, "pending", 0, False, True)]


def test_the_seed_is_the_runbooks() -> None:
    runbook = Path(__file__).parents[3] / "shared" / "seeds" / "dispatcher-runbook.md"
    if not runbook.exists():
        pytest.skip("the runbook is not beside this checkout")
    assert SEED in runbook.read_text(encoding="utf-8")


async def test_a_dispatchbox_insert(db: psycopg.AsyncConnection) -> None:
    await db.execute(DISPATCHBOX)
    shape = "aggregate_type, aggregate_id, event_type, status, event_id IS NOT NULL, message_id IS NOT NULL"
    assert await rows(db, shape) == [("order", "12345", "order.created", "pending", True, True)]


async def test_copy_with_the_columns_a_producer_has(db: psycopg.AsyncConnection) -> None:
    copy = "COPY messaging.message_outbox (event_type, aggregate_id, payload, headers) FROM STDIN"
    async with db.cursor() as cursor, cursor.copy(copy) as sink:
        for number in range(1000):
            await sink.write_row(("a", str(number), f'{{"n": {number}}}', None))
    assert await rows(db, "aggregate_id, (payload->>'n')::int") == [(str(n), n) for n in range(1000)]


@pytest.mark.promise("commit-only")
async def test_what_a_savepoint_undid_is_not_there(db: psycopg.AsyncConnection) -> None:
    async with db.transaction():
        await db.execute(DISPATCHBOX)
        async with db.transaction(force_rollback=True):
            await db.execute(SEED)
        await db.execute(DISPATCHBOX)
    assert await rows(db, "event_type") == [("order.created",), ("order.created",)]


@pytest.mark.parametrize("undone_first", [True, False])
async def test_a_sleeper_is_rung_once_for_what_committed(
    database_url: str, db: psycopg.AsyncConnection, undone_first: bool
) -> None:
    sleeper = await connect(PostgresTarget(database_url, "test"), "sleeper")
    try:
        await sleeper.fetch("LISTEN outbox_doorbell")
        await sleeper.fetch("SELECT pg_advisory_lock(1869968482, 1)")
        async with db.transaction():
            if not undone_first:
                await db.execute(DISPATCHBOX)
            async with db.transaction(force_rollback=True):
                await db.execute(DISPATCHBOX)
            await db.execute(DISPATCHBOX)
            await db.execute(SEED)
        await sleeper.fetch("SELECT 1")  # whatever was sent to us arrives before this answer
        assert [(channel, payload) for channel, payload, _ in sleeper.drain_notifications()] == [
            ("outbox_doorbell", "")
        ]
        async with db.transaction():
            await db.execute("SET LOCAL dispatcher.doorbell = off")
            await db.execute(DISPATCHBOX)
        await sleeper.fetch("SELECT 1")
        assert sleeper.drain_notifications() == []
    finally:
        await sleeper.close()


@pytest.mark.promise("quiet-writers")
async def test_nobody_is_rung_while_nobody_sleeps(database_url: str, db: psycopg.AsyncConnection) -> None:
    listener = await connect(PostgresTarget(database_url, "test"), "listener")
    try:
        await listener.fetch("LISTEN outbox_doorbell")
        await db.execute(DISPATCHBOX)
        await listener.fetch("SELECT 1")
        assert listener.drain_notifications() == []
    finally:
        await listener.close()
