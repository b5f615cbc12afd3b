"""A worker that is killed again and again, under load, while another one works: end to end, with the command line."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from redis.asyncio import Redis

from tests.support.child import Child, StartCli
from tests.support.command import HearCommand
from tests.support.rows import read_stream, read_table, statuses
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
KILLS = 6
WORKERS = 2
TABLES = "CREATE TABLE begun (event_id uuid, pid integer); CREATE TABLE done (event_id uuid)"
# Each transaction adds an event for the stream and one for the handler.
INSERT = (
    "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) "
    "VALUES ('order.created', 'a', '{}'), ('work', 'b', '{}')"
)
NOT_DONE = (
    "SELECT count(*) FROM messaging.message_outbox AS o WHERE event_type = 'work' AND status = 'sent' "
    "AND NOT EXISTS (SELECT FROM done AS d WHERE d.event_id = o.event_id)"
)
BEGUN = "SELECT count(*) FROM begun WHERE pid = %s"
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'dispatcher %'"
)
WORK = """
import os, time
import psycopg
from dispatcher.handlers import handler

@handler("work")
def work(payload, event):
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("INSERT INTO begun VALUES (%s, %s)", [event.event_id, os.getpid()])
        time.sleep(0.1)  # so that some are at work whenever the process is killed
        connection.execute("INSERT INTO done VALUES (%s)", [event.event_id])
"""


class Load:
    """Commits on a connection of its own, and asks /ready, until it is stopped."""

    def __init__(self, url: str, child: Child) -> None:
        self._url, self._child = url, child
        self.committed = 0
        self.not_ready: list[str] = []
        self._stopping = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._commit())
            tasks.create_task(self._ask())
            try:
                yield
            finally:
                self._stopping = True

    async def _commit(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            while not self._stopping:
                await connection.execute(INSERT)
                self.committed += 2
                assert await (await connection.execute(NOT_DONE)).fetchone() == (0,), "it is sent, and was not done"
                await asyncio.sleep(0.04)

    async def _ask(self) -> None:
        async with aiohttp.ClientSession() as session:
            while not self._stopping:
                async with session.get(f"{self._child.http_url}/ready") as answer:
                    self.not_ready += [] if answer.status == 200 else [await answer.text()]
                await asyncio.sleep(0.1)


def worker_00(child: Child) -> int:
    """The process id of the one that is killed, as it is now."""
    said = [line for line in child.lines if '"worker_started"' in line]
    return [int(found[1]) for line in said if (found := re.search(r"worker-00-pid(\d+)", json.loads(line)["started"]))][
        -1
    ]


def size_of(child: Child) -> tuple[int, int]:
    """MiB of memory, and open files."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    [kib] = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kib) // 1024, len(list(Path(f"/proc/{child.pid}/fd").iterdir()))


async def fetch(db: Db, query: str, *parameters: object) -> int:
    [value] = await (await db.execute(query.encode(), parameters or None)).fetchone() or (0,)
    return int(value)


@pytest.mark.promise("handler-at-least-once")
async def test_a_worker_of_handlers_is_killed_again_and_again(
    cli: StartCli, database_url: str, redis_url: str, heard: HearCommand, db: Db, redis: Redis, tmp_path: Path
) -> None:
    """Nothing is lost or doubled, nothing is acknowledged that was not done, and `status` says what goes on."""
    (tmp_path / "work.py").write_text(WORK)
    await db.execute(TABLES)
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    child = await cli("run", f"--processes={WORKERS}", "--handlers=work", env=env, cwd=tmp_path)
    await child.ready()
    await becomes(lambda: len([line for line in child.lines if '"dispatcher_started"' in line]), WORKERS)
    load = Load(database_url, child)
    sessions = clients = memory = files = 0
    async with load.running():
        for kill in range(KILLS):
            pid = worker_00(child)
            await until(lambda pid=pid: fetch(db, BEGUN, pid), "the new worker handles events")  # type: ignore[misc]
            if kill == 1:
                memory, files = size_of(child)
                sessions, clients = await fetch(db, SESSIONS), len(await redis.client_list())
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: worker_00(child) != pid, "another one was started")  # type: ignore[misc]
        code, out, _ = await heard("status", "--json")
        [said] = [each for each in json.loads(out)["attention"] if each["kind"] == "ended"]
        async with aiohttp.ClientSession() as session, session.get(f"{child.http_url}/metrics") as answer:
            assert f"messaging_dispatch_worker_restarts_total {KILLS}.0" in await answer.text()
    await becomes(lambda: statuses(db), {"sent": load.committed}, "the rows")
    assert (code, said["level"], said["needs_somebody"]) == (0, "warn", "by morning")
    assert said["what"].startswith("Dispatchers end again and again: ")
    assert said["runbook"].endswith("/restarting.md")
    assert load.not_ready == [], "the other worker relays"
    published = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(published) == len(set(published)) == load.committed // 2
    assert await fetch(db, "SELECT count(DISTINCT event_id) FROM done") == load.committed // 2
    again = await fetch(db, "SELECT count(*) - count(DISTINCT event_id) FROM begun")
    assert 0 < again <= KILLS * 40, "only what was at work when its process was killed"
    await becomes(lambda: in_the_registry(db), WORKERS, "the dispatchers in the registry")
    assert await fetch(db, SESSIONS) <= sessions
    assert len(await redis.client_list()) <= clients
    memory_now, files_now = size_of(child)
    assert memory_now < memory + 16
    assert files_now <= files + 1
    assert await child.terminate() == 0


async def in_the_registry(db: Db) -> int:
    return len(await read_table(db, "dispatcher"))
