"""A process that a handler forks keeps nothing of ours: what was killed is dead for Postgres, Redis and its port."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.infra.postgres.dial import dial
from dispatcher.infra.redis.reach import open_pipe
from dispatcher.infra.redis.target import RedisTarget
from tests.support.child import StartCli
from tests.support.rows import insert_events, statuses
from tests.support.waiting import becomes, until

SHOP = """
import multiprocessing, os, signal, time
from dispatcher.handlers import handler

def stays():
    for output in (1, 2):  # the test reads them to their end
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    time.sleep(600)

@handler("fork")
def fork(payload):
    if (pid := os.fork()) == 0:
        try:
            stays()
        finally:
            os._exit(0)
    note(pid)

@handler("process")
async def process(payload):
    child = multiprocessing.get_context("fork").Process(target=stays)
    child.start()
    note(child.pid)

@handler("terminate-in-thread")
def terminate_in_thread(payload):
    terminate(ready=True)
    terminate(ready=False)

@handler("terminate-on-loop")
async def terminate_on_loop(payload):
    terminate(ready=True)
    terminate(ready=False)

@handler("pool")
def pool(payload):
    with multiprocessing.get_context("fork").Pool(2) as workers:  # its end terminates them
        assert workers.map(abs, [-1, 2]) == [1, 2]

def terminate(ready):
    runs, begins = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=says, args=(begins,))
    child.start()
    if ready:
        os.read(runs, 1)
    child.terminate()
    child.join()
    assert child.exitcode == -signal.SIGTERM, child.exitcode

def says(begins):
    os.write(begins, b"1")
    time.sleep(600)

def note(pid):
    with open("children", "a") as file:
        file.write(f"{pid}\\n")
"""


def pids(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()]


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Path]:
    """The file with the process ids of what was forked; all are ended after the test."""
    (tmp_path / "shop.py").write_text(SHOP)
    file = tmp_path / "children"
    yield file
    for pid in pids(file) if file.exists() else []:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.promise("killed")
@pytest.mark.parametrize("kind", ["fork", "process"])
async def test_what_a_handler_forked_keeps_no_session_alive(
    kind: str,
    cli: StartCli,
    database_url: str,
    redis_url: str,
    db: psycopg.AsyncConnection[Any],
    redis: Redis,
    children: Path,
    tmp_path: Path,
) -> None:
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    child = await cli("run", "--handlers=shop", env=env, cwd=tmp_path)
    await child.ready()
    await insert_events(db, event_type=kind)
    await until(children.exists, "a child that was forked")

    async def sessions() -> int:
        found = await db.execute(
            "SELECT FROM pg_stat_activity WHERE application_name LIKE 'dispatcher %' AND datname = current_database()"
        )
        return found.rowcount

    async def publishers() -> int:
        names = [each["name"] for each in await redis.client_list()]
        return sum(name in each and "gauges" not in each for each in names)  # that one only reads

    [(name,)] = await (await db.execute("SELECT name FROM messaging.dispatcher")).fetchall()
    assert await sessions() > 5
    assert await publishers() > 0
    port = urlsplit(child.http_url).port
    await child.kill()
    [forked] = pids(children)
    assert forked != child.pid
    await becomes(sessions, 0, "the number of sessions of what was killed")
    await becomes(publishers, 0, "the number of connections to Redis of what was killed")
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
    server.close()
    os.kill(forked, 0)  # it lives


@pytest.mark.parametrize("kind", ["terminate-in-thread", "terminate-on-loop", "pool"])
async def test_a_signal_to_what_a_handler_forked_is_for_that_process_alone(
    kind: str, cli: StartCli, database_url: str, db: psycopg.AsyncConnection[Any], children: Path, tmp_path: Path
) -> None:
    env = {"DATABASE_URL": database_url, "DISPATCHER_ENABLED": "true", "DISPATCH_UNROUTED": "dead"}
    child = await cli("run", "--handlers=shop", env=env, cwd=tmp_path)
    await child.ready()
    for handled in (1, 2):  # a dispatcher that stops would not take the second one
        await insert_events(db, event_type=kind)
        await becomes(lambda: statuses(db), {"sent": handled}, "the rows")
    assert "dispatcher_stopping" not in child.output
    assert await child.terminate() == 0


async def open_postgres(port: int) -> None:
    await dial(f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable", 60.0)


async def open_redis(port: int) -> None:
    await open_pipe(RedisTarget.parse(f"rediss://127.0.0.1:{port}"), lambda pipe, why: None)


@pytest.mark.promise("killed")
@pytest.mark.parametrize("opens", [open_postgres, open_redis])
async def test_what_is_forked_while_a_connection_is_opened_does_not_keep_it(
    opens: Callable[[int], Coroutine[Any, Any, None]],
) -> None:
    """A server that accepts, and says nothing until we have forked."""
    accepted: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # the client has its socket, and has written to it
        accepted.set_result(reader)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(opens, port)
        reader = await accepted
        if (forked := os.fork()) == 0:
            signal.pause()
            os._exit(0)
        tasks.cancel_scope.cancel()
    try:
        await until(reader.at_eof, "the server sees that the connection is closed")
        os.kill(forked, 0)  # it lives
    finally:
        os.kill(forked, signal.SIGKILL)
        await anyio.to_thread.run_sync(os.waitpid, forked, 0)
        server.close()
