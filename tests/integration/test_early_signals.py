"""A stop that is asked for before the dispatcher is ready, as the first process of a container too."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.child import OURS, StartCli
from tests.support.rows import insert_events, statuses
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]
BLOCKS = """
import pathlib, time
pathlib.Path("blocks").touch()
try:
    time.sleep(3600)
except BaseException:  # what somebody's module may do
    time.sleep(3600)
HANDLERS = {}
"""


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


class FirstProcess:
    """A program that is process 1 of a namespace of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def stop(self) -> int:
        """SIGTERM, then its exit code."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        os.kill(int(await until(lambda: path.read_text().strip(), "its process")), signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self.process.wait()


StartFirst = Callable[..., Awaitable[FirstProcess]]


@pytest.fixture
async def first(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[StartFirst]:
    """Starts the command line as process 1: `one = await first("run", "--enabled")`; its directory is tmp_path."""
    if not may_unshare():
        pytest.skip("this machine lets nobody make a namespace of processes (unshare --pid)")
    started: list[FirstProcess] = []

    async def start(*arguments: str) -> FirstProcess:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        process = await asyncio.create_subprocess_exec(
            *(*UNSHARE, sys.executable, "-m", "dispatcher", *arguments),
            env=inherited | {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCH_HTTP_PORT": "0"},
            cwd=tmp_path,
        )
        started.append(FirstProcess(process))
        return started[-1]

    yield start
    for one in started:
        if one.process.returncode is None:
            one.process.kill()
            await one.process.wait()


async def test_while_the_program_itself_is_loaded(first: StartFirst, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(BLOCKS)  # the working directory comes first for `python -m`
    one = await first("run", "--enabled")
    await until((tmp_path / "blocks").exists, "a library is loaded")
    assert await one.stop() == 0


async def test_while_a_command_is_loaded(first: StartFirst, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(BLOCKS)
    one = await first("migrate")
    await until((tmp_path / "blocks").exists, "a library is loaded")
    assert await one.stop() == 143


@pytest.mark.parametrize("processes", [1, 2])
async def test_while_handlers_are_loaded(first: StartFirst, db: Db, tmp_path: Path, processes: int) -> None:
    (tmp_path / "shop.py").write_text(BLOCKS)
    await insert_events(db, 10)
    one = await first("run", "--enabled", "--handlers=shop:HANDLERS", f"--processes={processes}")
    await until((tmp_path / "blocks").exists, "the handlers are loaded")
    assert await one.stop() == 0
    assert await statuses(db) == {"pending": 10}


async def test_while_migrate_waits(first: StartFirst, db: Db) -> None:
    async with db.transaction():
        await db.execute("LOCK TABLE messaging.message_outbox, messaging.schema_migration")
        one = await first("migrate")

        async def waits() -> bool:
            return bool(await (await db.execute("SELECT FROM pg_locks WHERE NOT granted")).fetchall())

        await until(waits, "migrate waits for the lock")
        assert await one.stop() == 143


async def test_while_it_connects(first: StartFirst, tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        one = await first("run", "--enabled", f"--database-url=postgresql://u@127.0.0.1:{port}/d")
        async with asyncio.timeout(60):
            await asked.wait()
        assert await one.stop() == 0


@pytest.mark.parametrize("line", ["sidecar_up", "worker_started", "dispatcher_started"])
async def test_several_processes_stopped_while_they_start(
    cli: StartCli, database_url: str, redis_url: str, line: str
) -> None:
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    child = await cli("run", "--processes=2", env=env)
    await child.line(f'"{line}"')
    assert await child.terminate() == 0, child.output


@pytest.mark.promise("stop")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
async def test_a_terminal_that_is_closed_stops_it_cleanly(
    number: signal.Signals, cli: StartCli, database_url: str, redis_url: str, db: Db
) -> None:
    child = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await child.ready()
    await insert_events(db, 3000)
    child.signal(number)
    assert await child.wait() == 0, child.output
    assert "picked" not in await statuses(db)


async def test_what_log_rotation_sends_ends_nothing(cli: StartCli, database_url: str, redis_url: str, db: Db) -> None:
    child = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await child.ready()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        child.signal(number)
    await insert_events(db, 10)
    await becomes(lambda: statuses(db), {"sent": 10})
    assert await child.terminate() == 0
