"""Files, names and processes that do not answer hold up nobody else."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.errors import Unreachable
from dispatcher.infra.blocking import CurrentSetting
from tests.integration.test_processes import workers
from tests.support.child import StartCli
from tests.support.redis import StartValkey
from tests.support.rows import insert_events, read_stream, statuses
from tests.support.waiting import becomes

Db = psycopg.AsyncConnection[Any]
CUT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name LIKE 'dispatcher %' AND datname = current_database()"""


@contextmanager
def nobody_may_open(path: Path) -> Iterator[None]:
    """Whoever opens the file waits, as on a mount that hangs: the kernel asks us to give our lease back first."""
    asked = signal.signal(signal.SIGIO, lambda number, frame: None)
    descriptor = os.open(path, os.O_RDWR)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield
    finally:
        os.close(descriptor)
        signal.signal(signal.SIGIO, asked)


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_file_with_a_secret_that_cannot_be_opened_for_now(
    cli: StartCli, database_url: str, redis_url: str, db: Db, tmp_path: Path, processes: int
) -> None:
    files = {"DATABASE_URL_FILE": database_url, "REDIS_URL_FILE": redis_url, "DISPATCH_API_TOKEN_FILE": "a-token"}
    env: dict[str, str | None] = {"DISPATCHER_ENABLED": "true"}
    for name, value in files.items():
        (tmp_path / name).write_text(value)
        env[name] = str(tmp_path / name)
    child = await cli("run", f"--processes={processes}", env=env)
    await child.ready()
    await insert_events(db, 10)
    await becomes(lambda: statuses(db), {"sent": 10})
    with nobody_may_open(tmp_path / "DATABASE_URL_FILE"), nobody_may_open(tmp_path / "REDIS_URL_FILE"):
        await db.execute(CUT)
        await insert_events(db, 10)
        await becomes(lambda: statuses(db), {"sent": 20})
        await child.ready()
        assert await child.terminate() == 0


async def test_the_last_known_value_serves_while_a_file_hangs() -> None:
    goes_on = threading.Event()
    values = ["one", "two"]

    def ask() -> str:
        if values[0] == "two":
            goes_on.wait(60)
        return values[0]

    asked = CurrentSetting(ask, patience_s=60.0)
    assert await asked.get() == "one"
    values.pop(0)
    asked._patience_s = 0.05
    assert [await asked.get() for _ in range(3)] == ["one"] * 3
    goes_on.set()
    await becomes(asked.get, "two")
    never = CurrentSetting(threading.Event().wait, patience_s=0.05)
    with pytest.raises(Unreachable, match="did not answer within"):
        await never.get()


@pytest.mark.promise("redis-loss")
async def test_the_file_names_another_redis(
    cli: StartCli, database_url: str, db: Db, own_valkey: StartValkey, tmp_path: Path
) -> None:
    """All leave for it: what is published, what is looked up, what was sent a moment before."""
    old, new = own_valkey(), own_valkey()
    file = tmp_path / "redis"
    file.write_text(old.url)
    env = {"DATABASE_URL": database_url, "REDIS_URL_FILE": str(file), "DISPATCHER_ENABLED": "true"}
    child = await cli("run", env=env)
    await child.ready()
    await insert_events(db, 10)
    await becomes(lambda: statuses(db), {"sent": 10})
    file.write_text(new.url)
    async with Redis.from_url(new.url) as redis:

        async def arrived() -> int:
            return len(await read_stream(redis))

        await becomes(arrived, 10)  # the audit's window: they are not in the new one
        await insert_events(db, 5)
        await becomes(arrived, 15)
    async with Redis.from_url(old.url) as redis:
        assert len(await read_stream(redis)) == 10
    await child.ready()
    assert await child.terminate() == 0


async def test_a_supervisor_that_is_stopped_holds_up_no_worker(
    cli: StartCli, database_url: str, redis_url: str, db: Db
) -> None:
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    child = await cli("run", "--processes=2", "--log-level=DEBUG", env=env)
    await child.ready()
    child.signal(signal.SIGSTOP)
    for _ in range(40):
        await insert_events(db, 50)
    await becomes(lambda: statuses(db), {"sent": 2000})
    child.signal(signal.SIGCONT)
    await child.ready()
    assert len(workers(child)) == 2
    assert await child.terminate() == 0


SILENT = "127.77.0.1"  # a name server that answers nothing
RESOLV = f"nameserver {SILENT}\noptions timeout:30 attempts:5\n"


@pytest.fixture
def silent_names(tmp_path: Path) -> Iterator[list[str]]:
    """What to put before a program: all names but localhost are looked up where nobody answers."""
    (tmp_path / "resolv.conf").write_text(RESOLV)
    command = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"']
    before = [*command, str(tmp_path / "resolv.conf")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind((SILENT, 53))
            subprocess.run([*before, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this machine lets nobody serve names, or mount (unshare --mount)")
        yield before


async def test_a_name_that_is_not_answered_keeps_no_other_waiting(
    silent_names: list[str], database_url: str, db: Db
) -> None:
    env = os.environ | {
        "DATABASE_URL": database_url.replace("127.0.0.1", "localhost"),
        "REDIS_URL": "redis://nobody.example:6379",
        "DISPATCH_CONNECT_TIMEOUT_MS": "1500",
        "DISPATCHER_ENABLED": "true",
        "DISPATCH_HTTP_HOST": "127.0.0.1",
        "DISPATCH_HTTP_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *silent_names, sys.executable, "-m", "dispatcher", "run", env=env, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    lines: list[bytes] = []

    async def line(text: bytes, count: int = 1) -> None:
        async with asyncio.timeout(60):
            while sum(text in each for each in lines) < count:
                assert process.stderr is not None
                lines.append(await process.stderr.readline())
                assert lines[-1], lines

    try:
        await line(b'"breaker_opened"')
        await line(b'"dispatcher_tick_error"', 4)  # one in five seconds: many tries were made
        await db.execute(CUT)
        await line(b'"database_up"', 2)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
