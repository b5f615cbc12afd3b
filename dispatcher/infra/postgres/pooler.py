"""Whether a pooler keeps a session on one server connection: tried, for no pooler says.

A setting that lasts proves nothing: a pooler with little to do gives each transaction the same server connection. What
proves it is a notification that arrives while the session is idle, outside of any transaction: only a server connection
that is ours alone can bring it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from uuid import uuid4

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.infra.postgres.session import Session

HEARD_S = 1.0  # for the notification; in the same machine room it takes milliseconds
OTHER_S = 3.0  # for all that the second session does: a pooler may have no server connection left for it
ROOM = "if it keeps sessions, let it have eight server connections a dispatcher (default_pool_size); if not, "
KNOWN_S = 60.0  # how long an answer counts: one try for all sessions of a dispatcher


class PoolerCheck:
    """What was found out about the pooler of one URL. Shared by all sessions through it."""

    def __init__(self) -> None:
        self._one_at_a_time: anyio.Lock | None = None
        self._answer: bool | None = None
        self._until = 0.0
        self.no_room = False  # the last try failed for want of a second server connection

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Until something was found out, one session says its first words after the other.

        At once they would take all server connections of a small pool, and none would be left to find out by.
        """
        if self._answer is not None:
            yield
            return
        self._one_at_a_time = self._one_at_a_time or anyio.Lock()
        async with self._one_at_a_time:
            yield

    def met_none(self) -> None:
        """Hear that a session met no pooler."""
        if self._answer is None:
            self._answer = False

    async def keeps(self, session: Session, pid: int, open_other: Callable[[], Awaitable[Session]]) -> bool:
        """Whether this session, with server process `pid`, goes on with it. `open_other()`: another session there.

        Raises nothing: what cannot be proven is not so. What was proven once stays so when a later try finds no room.
        """
        if self._answer is None or monotonic() >= self._until:
            found = await self._try(session, pid, open_other)
            self.no_room = found is None
            if found is not None or self._answer is None:
                self._answer = bool(found)
            self._until = monotonic() + KNOWN_S
        return self._answer

    async def _try(self, session: Session, pid: int, open_other: Callable[[], Awaitable[Session]]) -> bool | None:
        """None: the pooler has no server connection left for another session."""
        try:
            other = await open_other()
        except DispatcherError:
            return None
        answered = False
        limit = asyncio.get_running_loop().call_later(OTHER_S, other.cut)
        try:
            [(others_pid,)] = await other.fetch("SELECT pg_backend_pid()", once=True)
            answered = True
            if others_pid == pid:
                return False  # both at once: neither owns it
            return await _rings(session, other)
        except (SessionLost, psycopg.Error):
            return False if answered else None
        finally:
            limit.cancel()
            await other.close()


async def _rings(session: Session, other: Session) -> bool:
    channel = f"outbox_ping_{uuid4().hex}"
    await session.fetch(f"LISTEN {channel}", once=True)
    await other.fetch("SELECT pg_notify(%(channel)s, '')", {"channel": channel}, once=True)
    heard = False
    with anyio.move_on_after(HEARD_S):
        # No statement of the session meanwhile: with one it has a server connection, and hears what that one heard.
        while not heard:
            heard = any(each == channel for each, _, _ in session.drain_notifications())
            if not heard:
                await session.wait_readable()
    for each in (session, other):  # behind a transaction pooler nobody knows which of them listens
        await each.fetch("UNLISTEN *", once=True)
    return heard
