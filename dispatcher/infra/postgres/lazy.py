"""A session for HTTP requests: opened by the first request, used by one at a time, closed after an idle minute.

It is apart from the relay's sessions, so a slow statement delays only the next request. A flood of requests makes a
short queue and is refused beyond that; it never opens more connections.
"""

from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, SessionLost, Unreachable
from dispatcher.infra.blocking import CurrentSetting
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.target import PostgresTarget

QUEUE = 16  # requests that wait or are being answered
PATIENCE_S = 5.0  # that a request waits for its turn
IDLE_S = 60.0
RETRY_S = 1.0  # after a failure to connect; a request that comes sooner gets the same error
GRACE_S = 1.0  # for the request in flight when the service stops


class Busy(DispatcherError):
    """Too many requests at once. Trying again later may help."""


class LazySession:
    """`fetch` runs one statement. `run()` has to run beside it, or the session is never closed."""

    def __init__(self, target: Callable[[], PostgresTarget], *, prepare: Callable[[Session], Awaitable[None]]) -> None:
        self._target = CurrentSetting(target)
        self._prepare = prepare
        self._turn = anyio.Lock()  # its holder may use and replace the session
        self._asking = 0  # written by fetch()
        self._session: Session | None = None
        self._used_at = 0.0
        self._failed: tuple[float, DispatcherError] | None = None
        self._closed = False  # written by run()

    async def fetch(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Raises Busy, Misconfigured or Unreachable (the statement did not run), SessionLost (it may have run), or
        psycopg.Error (the server refused it).
        """
        if self._asking >= QUEUE:
            raise Busy(f"{QUEUE} requests are waiting for Postgres already")
        self._asking += 1
        try:
            with anyio.move_on_after(PATIENCE_S) as patience:
                await self._turn.acquire()
            if patience.cancelled_caught:
                raise Busy(f"the requests before this one took Postgres more than {PATIENCE_S:g} s")
            try:
                return await self._fetch(sql, params)
            finally:
                self._turn.release()
        finally:
            self._asking -= 1

    def replace(self, reason: str) -> None:
        """Lose the session, if there is one: its server is gone, or takes no writes any more."""
        if self._session is not None:
            self._session.lose(reason)  # the next request, or an idle minute, closes it

    async def _fetch(self, sql: str, params: Mapping[str, object] | None) -> list[tuple[Any, ...]]:
        if self._session is not None and self._session.closed:
            await self._close()
        session = self._session or await self._open()
        try:
            return await session.fetch(sql, params)
        except SessionLost:
            self._session = None
            await session.close()
            raise
        finally:
            self._used_at = monotonic()

    async def _open(self) -> Session:
        if self._closed:
            raise Unreachable("the dispatcher is stopping")
        if self._failed is not None and monotonic() - self._failed[0] < RETRY_S:
            raise self._failed[1]
        try:
            session = await self._opened()
        except DispatcherError as error:
            self._failed = (monotonic(), error)
            raise
        self._failed = None
        return session

    async def _opened(self) -> Session:
        session = self._session = await connect(await self._target.get(), "api")  # so that the end can cut it
        try:
            await self._prepare(session)
        except (SessionLost, psycopg.Error) as error:
            await self._close()
            raise Unreachable(describe(error)) from None
        except BaseException:
            await self._close()
            raise
        # A server that became read-only is left, as by all other sessions.
        session.watch(lambda reason: None, lambda: None)
        return session

    async def run(self) -> None:
        """Close the session when no request came for a while, and at the end."""
        try:
            while True:
                await anyio.sleep(IDLE_S)
                async with self._turn:
                    if monotonic() - self._used_at > IDLE_S:
                        await self._close()
        finally:
            self._closed = True
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(GRACE_S) as grace:
                    async with self._turn:
                        await self._close()
                if grace.cancelled_caught and self._session is not None:
                    self._session.cut()  # the request that uses it closes it

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
