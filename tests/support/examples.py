"""Runs the programs of examples/ as their README says, each in a process of its own that does not outlive the test."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from dispatcher.embedded import free_port
from tests.support.child import Child
from tests.support.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS = ("DISPATCH", "DATABASE", "POSTGRES_URL", "REDIS_", "CHAT_", "SHOP_")


@asynccontextmanager
async def example(
    *arguments: str, env: Mapping[str, str] | None = None, folder: Path = EXAMPLES
) -> AsyncIterator[Child]:
    """`python ...` there, with nothing of ours in its environment but `env`. Ended by SIGINT, as Ctrl-C does."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=inherited | {"PYTHONUNBUFFERED": "1"} | dict(env or {}),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**24,
    )
    child = Child(process)
    try:
        yield child
    finally:
        if child.running:
            child.signal(signal.SIGINT)
            try:
                await child.wait()
            except AssertionError:
                await child.kill()
                raise


class Gateway:
    """A gateway of the chat, which can be stopped and started again at the same address."""

    def __init__(self, database_url: str, redis_url: str, settings: Mapping[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self._env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CHAT_PORT": str(port), **settings}

    @asynccontextmanager
    async def running(self, **settings: str) -> AsyncIterator[Child]:
        """One run of it."""
        async with example("-m", "chat.app", env=self._env | settings) as child:
            await answers(self.url, child)
            yield child


async def answers(url: str, child: Child) -> None:
    """Wait until it answers 200."""
    async with aiohttp.ClientSession() as session:

        async def look() -> bool:
            assert child.running, child.output
            try:
                async with session.get(url) as answer:
                    return answer.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await until(look, f"{url} answers")


def pid_of(child: Child, part: str) -> int:
    """The process id of a part of an example, as it is now."""
    return [int(line.rpartition("pid ")[2].rstrip(")")) for line in child.lines if line.startswith(f"{part}: run")][-1]


async def running_again(child: Child, part: str, pid: int) -> int:
    """The process id of what took the place of that one."""
    await until(lambda: pid_of(child, part) != pid, f"{part} runs again")
    return pid_of(child, part)
