"""A dispatcher as a process of its own, each with proxies of its own before both servers."""

import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.support.child import Child
from tests.support.proxy import Proxy


@dataclass(slots=True)
class Process:
    """A running dispatcher. `gone_at`: when it was killed or frozen, wall clock."""

    child: Child
    postgres: Proxy
    redis: Proxy
    gone_at: float | None = None
    frozen: bool = field(default=False)

    @property
    def name(self) -> str:
        """What it calls itself in Postgres, in Redis and in the log line of its start."""
        for line in self.child.lines:
            if '"event": "dispatcher_started"' in line:
                return str(json.loads(line)["dispatcher"])
        raise AssertionError(f"it has not started yet; output:\n{self.child.output}")

    @property
    def token(self) -> str:
        """The part of its name that is nobody else's, and the third word of its sessions' application_name."""
        return self.name.rsplit("-", 1)[-1]

    @property
    def alive(self) -> bool:
        """Whether it runs, frozen or not."""
        return self.child.running

    async def kill(self) -> None:
        """kill -9. What it had written to its sockets and a proxy still holds goes with its connections."""
        self.gone_at = time.time()
        await self.child.kill()
        self.postgres.cut()
        self.redis.cut()

    async def kill_leaving_bytes(self) -> None:
        """kill -9, with what its proxies hold still on its way, as in the socket buffers of a busy server."""
        self.gone_at = time.time()
        await self.child.kill()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.gone_at = time.time()
        self.frozen = True
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        self.child.signal(signal.SIGCONT)

    def open_files(self) -> int:
        """How many file descriptors it has open."""
        return len(list(Path(f"/proc/{self.child.pid}/fd").iterdir()))

    async def health(self) -> int:
        """The status code of the liveness probe."""
        timeout = aiohttp.ClientTimeout(total=2.0)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.child.http_url}/health") as answer,
        ):
            return answer.status

    async def events(self, event: str) -> int:
        """How many log lines of that event it has written."""
        return sum(f'"event": "{event}"' in line for line in self.child.lines)
