"""The log's reader stops reading: the dispatcher goes on, answers, and stops when it is told to."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from dispatcher.embedded import launch
from tests.support.child import OURS
from tests.support.proxy import StartProxy
from tests.support.rows import insert_events, statuses
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
PIPE_BYTES = 4096


@dataclass
class Unread:
    """A dispatcher whose output is read up to a line, then no more."""

    process: asyncio.subprocess.Process
    reader: int
    read: bytes = field(default=b"")

    async def read_until(self, text: bytes) -> str:
        """Read on until there is a line with `text`; returns that line."""

        def found() -> str | None:
            while chunk := self._chunk():
                self.read += chunk
            return next((line.decode() for line in self.read.splitlines() if text in line), None)

        return str(await until(found, f"a line with {text!r}"))

    def _chunk(self) -> bytes:
        try:
            return os.read(self.reader, 65536)
        except BlockingIOError:
            return b""


Start = Callable[..., Any]


@pytest.fixture
async def unread(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts `dispatcher run` with one pipe for both outputs: `child, url = await unread("--processes=2")`."""
    started: list[Unread] = []

    async def start(*arguments: str) -> tuple[Unread, str]:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCH_HTTP_HOST": "127.0.0.1"}
        tie = [launch.__file__, str(os.getpid()), str(int(signal.SIGKILL)), str(os.geteuid()), str(os.getegid())]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", *tie, sys.executable, "-m", "dispatcher", "run", "--enabled"),
            *("--http-port=0", "--log-level=DEBUG", *arguments),
            env=inherited | servers,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            cwd=tmp_path,
        )
        os.close(theirs)
        child = Unread(process, ours)
        started.append(child)
        port = json.loads(await child.read_until(b'"sidecar_up"'))["port"]
        return child, f"http://127.0.0.1:{port}"

    yield start
    for child in started:
        if child.process.returncode is None:
            child.process.kill()
        await child.process.wait()
        os.close(child.reader)


async def answer(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session, session.get(url) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("processes", [1, 2])
async def test_nobody_reads_the_log(unread: Start, db: Db, processes: int) -> None:
    child, url = await unread(f"--processes={processes}")
    await insert_events(db, 200)  # at DEBUG many lines: more than the pipe takes
    await becomes(lambda: statuses(db), {"sent": 200})
    for _ in range(30):  # each with lines of its own
        await insert_events(db, 1)
    await becomes(lambda: statuses(db), {"sent": 230})
    assert await answer(f"{url}/health") == (200, '{"status": "ok"}')
    child.process.terminate()
    async with asyncio.timeout(60):
        assert await child.process.wait() == 0


@pytest.mark.parametrize("processes", [1, 2])
async def test_nobody_reads_the_log_in_an_outage_of_redis(
    unread: Start, db: Db, redis_url: str, proxy: StartProxy, processes: int
) -> None:
    """From its first line on nobody reads what it says of it, at the level that is the default."""
    through = await proxy(redis_url)
    place = f"--redis-url={through.via(redis_url)}"
    child, url = await unread(f"--processes={processes}", "--log-level=INFO", place)
    await becomes(lambda: answer(f"{url}/ready"), (200, '{"status": "ready"}'))
    fill(child.reader)
    through.refuse()
    through.cut()
    await insert_events(db, 20)

    async def ready() -> int:
        return (await answer(f"{url}/ready"))[0]

    await becomes(ready, 503)
    assert await answer(f"{url}/health") == (200, '{"status": "ok"}')
    await through.restore()
    await becomes(lambda: statuses(db), {"sent": 20})
    assert await answer(f"{url}/health") == (200, '{"status": "ok"}')
    child.process.terminate()
    async with asyncio.timeout(60):
        assert await child.process.wait() == 0


def fill(reader: int) -> None:
    """Write into the pipe until it takes no more."""
    writer = os.open(f"/proc/self/fd/{reader}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.close(writer)


HANDLERS = """
import sys
async def talk(payload):
    print("x" * 100_000)
    print("y" * 100_000, file=sys.stderr, flush=True)
HANDLERS = {"talk": talk}
"""


async def test_what_handlers_print_blocks_nothing_either(unread: Start, db: Db, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(HANDLERS)
    child, url = await unread("--handlers=shop:HANDLERS", "--log-level=INFO")
    await insert_events(db, 50, event_type="talk")
    await becomes(lambda: statuses(db), {"sent": 50})
    _, page = await answer(f"{url}/metrics")
    [dropped] = [line for line in page.splitlines() if line.startswith("messaging_dispatch_log_lines_dropped_total")]
    assert float(dropped.split()[1]) > 0
    child.process.terminate()
    async with asyncio.timeout(60):
        assert await child.process.wait() == 0


async def test_nobody_is_there_to_read_any_more(unread: Start, db: Db) -> None:
    child, url = await unread()
    os.dup2(os.open(os.devnull, os.O_RDONLY), child.reader)  # the only reader of the pipe is gone
    await insert_events(db, 50)
    await becomes(lambda: statuses(db), {"sent": 50})
    assert await answer(f"{url}/health") == (200, '{"status": "ok"}')
    child.process.terminate()
    async with asyncio.timeout(60):
        assert await child.process.wait() == 0
