"""Tables with children in inheritance, and partitioned ones: never another row than ours, and words that say so."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import Settled, Slept
from dispatcher.core.findings.finding import Finding
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.tables import unfit
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.doctor import schema
from dispatcher.ops.prune import PruneSession
from dispatcher.service import run
from dispatcher.settings import Settings
from tests.support.command import RunCommand
from tests.support.readme import ROOT
from tests.support.rows import insert_events, read_stream
from tests.support.running import StartDispatcher

pytestmark = pytest.mark.both_versions

PAGE = (ROOT / "docs" / "how-to" / "plain-table.md").read_text(encoding="utf-8")
Db = psycopg.AsyncConnection[Any]
CHILD = "CREATE TABLE messaging.outbox_archive () INHERITS (messaging.message_outbox)"
PARTITIONED = """
CREATE SCHEMA old;
ALTER TABLE messaging.message_outbox SET SCHEMA old;
CREATE TABLE messaging.message_outbox (LIKE old.message_outbox INCLUDING DEFAULTS INCLUDING GENERATED)
    PARTITION BY RANGE (occurred_at);
CREATE TABLE messaging.message_outbox_now PARTITION OF messaging.message_outbox DEFAULT
"""
OURS = "SELECT count(*), count(*) FILTER (WHERE status = 'sent') FROM ONLY messaging.message_outbox"
THEIRS = "SELECT array_agg(c::text ORDER BY id) FROM messaging.outbox_archive AS c"


async def _fill_child(db: Db, rows: int, *, status: str = "pending") -> None:
    """Rows of a child that have the places of ours."""
    await db.execute(
        "INSERT INTO messaging.outbox_archive (id, event_type, aggregate_id, payload, status, occurred_at)"
        " SELECT i, 'old', 'a', '{}', %s, now() - interval '1 hour' FROM generate_series(1, %s) AS i",
        (status, rows),
    )


@pytest.mark.promise("one-entry")
async def test_a_child_made_meanwhile_is_left_alone(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    async with dispatcher(batch_size=50) as running:
        await running.tap.next(Slept, where=lambda slept: slept.holds_key)
        await db.execute(CHILD)
        await _fill_child(db, 1000)
        before = await (await db.execute(THEIRS)).fetchall()
        await db.execute(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload)"
            " SELECT 'new', 'a', '{}' FROM generate_series(1, 1000)"
        )
        await running.tap.add_up(Settled, sent=1000)
    assert len(await read_stream(redis)) == 1000
    assert await (await db.execute(THEIRS)).fetchall() == before
    assert await (await db.execute(OURS)).fetchall() == [(1000, 1000)]


async def test_prune_and_the_procedures_delete_no_row_of_a_child(db: Db, database_url: str) -> None:
    await db.execute(CHILD)
    await _fill_child(db, 300, status="sent")
    before = await (await db.execute(THEIRS)).fetchall()
    long_ago = {"status": "sent", "occurred_at": "2025-06-01 00:00:00+00", "sent_at": "2025-06-01 00:00:00+00"}
    await insert_events(db, 300, **long_ago)
    async with PruneSession(PostgresTarget(database_url, "test"), outbox_s=86_400.0, dlq_s=1.0) as prune:
        await prune.run(lambda _: None)
        assert prune.rows == 300
    await insert_events(db, 20, **long_ago)
    await db.execute("CALL messaging.prune_message_outbox('0 seconds')")
    assert await (await db.execute(OURS)).fetchall() == [(0, 0)]
    assert await (await db.execute(THEIRS)).fetchall() == before


async def test_an_audit_puts_back_no_row_of_a_child(db: Db) -> None:
    await db.execute(CHILD)
    await db.execute(
        "INSERT INTO messaging.stream_server (stream, run_id, replid, last_id) VALUES ('s', 'a', 'a', '9-0')"
    )
    await db.execute(
        "INSERT INTO messaging.outbox_archive (id, event_type, aggregate_id, payload, status, sent_at, stream_id)"
        " SELECT i, 'old', 'a', '{}', 'sent', now(), '8-1' FROM generate_series(1, 10) AS i"
    )
    await insert_events(db, 5, status="sent", sent_at="9000-01-01 00:00:00+00", stream_id="8-1")
    lost = {"stream": "s", "run_id": "b", "replid": "b", "last_id": "0-0", "window_s": 60.0, "at_most": 100}
    lost |= {
        "life": None,
        "below": None,
        "newest_id": "0-0",
        "added": None,
        "why": None,
        "so_far": 0,
        "is_default": True,
    }
    [(republished, *_)] = await (await db.execute(load("audit_stream").encode(), lost)).fetchall()
    assert republished == 5
    assert (await db.execute("SELECT FROM messaging.outbox_archive WHERE status = 'sent'")).rowcount == 10


@pytest.fixture
def start(database_url: str, redis_url: str) -> Callable[[], Awaitable[object]]:
    """Starts a dispatcher that is not expected to run."""
    ours = {"enabled": True, "http_enabled": False, "log_level": "CRITICAL", "connect_timeout_ms": 60_000}
    return lambda: run(Settings(database_url=database_url, redis_url=redis_url, **ours))  # type: ignore[arg-type]


async def doctor_says(url: str) -> Finding:
    session = await connect(PostgresTarget(url, "test"), "test")
    try:
        return await schema.tables(session)
    finally:
        await session.close()


@pytest.mark.promise("setup-errors")
@pytest.mark.parametrize("table", ["message_outbox", "message_dlq", "dispatcher", "unbroken"])
async def test_children_are_refused_at_the_start(
    table: str, db: Db, database_url: str, start: Callable[[], Awaitable[object]]
) -> None:
    await db.execute(f"CREATE TABLE messaging.kept () INHERITS (messaging.{table})".encode())
    remedy = f"ALTER TABLE messaging.kept NO INHERIT messaging.{table}"
    for refused in (migrate(database_url), start()):
        with pytest.raises(Misconfigured, match=f"{table} has children in inheritance .messaging.kept.*{remedy}"):
            await refused
    assert await doctor_says(database_url) == Finding(
        "tables",
        "bad",
        f"messaging.{table} has children in inheritance (messaging.kept): their rows seem to be in it, and no "
        "dispatcher sees them",
        remedy,
    )
    await db.execute(remedy.encode())
    assert await unfit(db) == []
    assert await migrate(database_url) == []


@pytest.mark.promise("setup-errors")
@pytest.mark.parametrize("what", ["partitioned", "a view", "a foreign table"])
async def test_what_is_no_plain_table_is_named(
    what: str, db: Db, database_url: str, start: Callable[[], Awaitable[object]], command: RunCommand
) -> None:
    aside = "CREATE SCHEMA old; ALTER TABLE messaging.message_outbox SET SCHEMA old;"
    made = {
        "partitioned": PARTITIONED,
        "a view": f"{aside} CREATE VIEW messaging.message_outbox AS SELECT * FROM old.message_outbox",
        "a foreign table": f"{aside} CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        " CREATE FOREIGN TABLE messaging.message_outbox (id bigint) SERVER s",
    }
    await db.execute(made[what].encode())
    for refused in (migrate(database_url), start()):
        with pytest.raises(Misconfigured, match=f"messaging.message_outbox is {what}.*plain-table.md"):
            await refused
    code, output = await command("status")
    assert code == 2
    assert f"messaging.message_outbox is {what}" in output
    found = await doctor_says(database_url)
    assert found.level == "bad"
    assert f"messaging.message_outbox is {what}" in found.found


async def test_the_page_makes_a_plain_table_of_a_partitioned_one(db: Db, database_url: str) -> None:
    await db.execute(PARTITIONED.encode())
    await db.execute(
        "INSERT INTO messaging.message_outbox (id, event_type, aggregate_id, payload, status)"
        " SELECT i, 'a', i, '{}', CASE WHEN i > 90 THEN 'retry' ELSE 'sent' END FROM generate_series(1, 100) AS i"
    )
    [aside, copy] = re.findall(r"```sql\n(.*?)```", PAGE.partition("## A partitioned table")[2], re.DOTALL)
    await db.execute(aside.encode())
    await migrate(database_url)
    await db.execute(copy.encode())
    assert await unfit(db) == []
    assert (await insert_events(db))[0] > 100
    waiting = "SELECT array_agg(aggregate_id ORDER BY id) FROM messaging.message_outbox"
    assert await (await db.execute(waiting)).fetchone() == ([*map(str, range(91, 101)), "a1"],)
