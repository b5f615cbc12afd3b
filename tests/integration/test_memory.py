"""Memory is bounded in bytes, from the first claim on: real processes, and the most memory they ever had."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from redis.asyncio import Redis

from tests.support.child import Child, StartCli
from tests.support.consumers import publish
from tests.support.rows import STREAM
from tests.support.waiting import becomes, until

MOST_KB = 256 * 1024
LARGE_TEXT = """
INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload, headers)
SELECT %(event_type)s, 'a' || i, jsonb_build_object('n', i, 'text', t.text || %(end)s::text), NULL
FROM (
    SELECT left(string_agg(md5(n::text), '' ORDER BY n), %(chars)s) AS text FROM generate_series(0, %(chars)s / 32) AS n
) AS t, generate_series(1, %(rows)s) AS i
"""


def most_memory_kb(child: Child) -> int:
    """The most resident memory that the process ever had (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
    assert found is not None
    return int(found[1])


async def insert_large(
    db: psycopg.AsyncConnection[Any], rows: int, chars: int, *, event_type: str = "t", end: str = ""
) -> None:
    """Rows whose payload does not compress. `end`: appended to the text."""
    await db.execute(LARGE_TEXT.encode(), {"rows": rows, "chars": chars, "event_type": event_type, "end": end})


async def unsettled(db: psycopg.AsyncConnection[Any]) -> int:
    [row] = await (await db.execute("SELECT count(*) FROM messaging.message_outbox WHERE NOT settled")).fetchall()
    return int(row[0])


@pytest.mark.parametrize(
    ("rows", "chars", "end", "batch_size"),
    [
        pytest.param(300, 1_000_000, "", "256", id="300 of 1 MB"),
        pytest.param(300, 1_000_000, "", "10000", id="the largest batch"),
        pytest.param(300, 1_000_000, "\U0001f40b", "256", id="four bytes a character in Python"),
    ],
)
async def test_a_backlog_of_large_payloads_from_a_cold_start(
    db, redis: "Redis", database_url, redis_url, cli: StartCli, rows, chars, end, batch_size
):
    await insert_large(db, rows, chars, end=end)
    child = await cli(
        "run",
        "--enabled",
        env={"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCH_BATCH_SIZE": batch_size},
    )
    await child.ready()
    await becomes(lambda: unsettled(db), 0, "rows that wait", 120.0)
    assert most_memory_kb(child) < MOST_KB
    assert await redis.xlen(STREAM) == rows
    await child.terminate()


@pytest.mark.promise("killed")
async def test_the_search_of_a_takeover_reads_large_entries(
    db, redis: "Redis", database_url, redis_url, cli: StartCli
) -> None:
    """Rows of a dead dispatcher, of which some are in the stream, behind and between 300 entries of 1 MB."""
    await insert_large(db, 40, 1_000_000)
    await db.execute("INSERT INTO messaging.dispatcher (name) VALUES ('dead')")
    claimed = await db.execute(
        "UPDATE messaging.message_outbox SET status = 'picked', picked_at = now(), stream_id = '0-1', "
        "claim_id = '7c9e6679-7425-40de-944b-e07fc1f90ae7', picked_by = (SELECT max(id) FROM messaging.dispatcher) "
        "RETURNING event_id::text"
    )
    ids = [event_id for (event_id,) in await claimed.fetchall()]
    for number in range(300):
        event_id = ids[number // 30] if number % 30 == 29 else f"another {number}"
        await redis.xadd(STREAM, {"event_id": event_id, "payload": "x" * 1_000_000})
    child = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await becomes(lambda: unsettled(db), 0, "rows that wait", 120.0)
    assert most_memory_kb(child) < MOST_KB
    assert await redis.xlen(STREAM) == 300 + 30
    await child.terminate()


async def test_handlers_have_a_budget_of_bytes(db, database_url, cli: StartCli, tmp_path: Path):
    (tmp_path / "slow.py").write_text("import time\nHANDLERS = {'t': lambda payload: time.sleep(0.02)}\n")
    await insert_large(db, 200, 1_000_000)
    child = await cli(
        *("run", "--enabled", "--handlers", "slow"),
        env={
            "DATABASE_URL": database_url,
            "DISPATCH_UNROUTED": "dead",
            "DISPATCH_MAX_PARALLEL": "100",
            "PYTHONPATH": str(tmp_path),
        },
    )
    await child.ready()
    await becomes(lambda: unsettled(db), 0, "rows that wait", 90.0)
    assert most_memory_kb(child) < MOST_KB
    await child.terminate()


async def test_a_group_that_begins_in_the_middle_of_large_entries(
    db: psycopg.AsyncConnection[Any], redis: "Redis", database_url: str, redis_url: str, cli: StartCli
) -> None:
    """Redis does not tell what such a group has to read: entries are read to count it, payloads and all."""
    ids: list[str] = []
    for _ in range(60):  # a pipeline has the 5 s of its socket to be written in
        pipe = redis.pipeline(transaction=False)
        for _ in range(5):
            pipe.xadd(STREAM, {"payload": "x" * 1_000_000, "headers": "x" * 1_000_000})
        ids += await pipe.execute()
    await redis.xgroup_create(STREAM, "late", id=ids[149])
    await insert_large(db, 1, 1000)
    child = await cli(
        *("run", "--enabled"),
        env={"DATABASE_URL": database_url, "REDIS_URL": redis_url, "REDIS_STREAM_MAXLEN": "310"},
    )
    await child.ready()
    await becomes(lambda: unsettled(db), 0, "rows that wait", 60.0)

    async def counted() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{child.http_url}/metrics") as answer:
            return 'messaging_stream_group_lag_entries{group="late"}' in await answer.text()

    await until(counted, "the gauges have counted what the group has to read", 60.0)
    assert most_memory_kb(child) < MOST_KB
    await child.terminate()


READS_ALL = """
import asyncio, sys
from pathlib import Path
import redis
from redis import asyncio as aio
from dispatcher.client.consumer import AsyncConsumer, Consumer, Group
from dispatcher.client.tail import AsyncTail, Tail

kind, url, stream, last = sys.argv[1:]
group = Group(stream=stream, group="g", ordered="ordered" in kind, count=1000)
ended = []


def note(event):
    if event.aggregate_id == last:
        ended.append(True)


async def note_async(event):
    note(event)


def read():
    if kind == "Tail":
        for event in Tail(redis.Redis.from_url(url), stream, after="0", count=1000):
            note(event)
            if ended:
                return
    consumer = Consumer(redis.Redis.from_url(url), group)
    consumer.run(lambda event: (note(event), ended and consumer.stop())[0])


async def read_async():
    client = aio.Redis.from_url(url)
    if kind == "AsyncTail":
        async for event in AsyncTail(client, stream, after="0", count=1000):
            note(event)
            if ended:
                break
    else:
        consumer = AsyncConsumer(client, group)

        async def handle(event):
            note(event)
            if ended:
                consumer.stop()

        await consumer.run(handle)
    await client.aclose()


asyncio.run(read_async()) if kind.startswith("Async") else read()
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])
"""


@pytest.mark.parametrize("kind", ["Consumer", "AsyncConsumer", "ordered Consumer", "Tail", "AsyncTail"])
async def test_whoever_reads_the_stream_has_a_budget_of_bytes(redis: "Redis", redis_url: str, kind: str) -> None:
    """A backlog of large entries, of one aggregate, so that with an order all wait behind one another."""
    for number in range(300):
        await publish(redis, "last" if number == 299 else "a", payload='"' + "x" * 1_000_000 + '"')
    command = [sys.executable, "-c", READS_ALL, kind, redis_url, STREAM, "last"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert process.returncode == 0
    assert int(told) < MOST_KB / 2
