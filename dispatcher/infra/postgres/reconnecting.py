"""A Postgres session that comes back: opened, watched and reopened with capped, jittered backoff."""

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from time import monotonic

import anyio
import psycopg
from anyio.abc import TaskStatus

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra.postgres.session import PostgresTarget, Session, connect, describe

RECONNECT = Backoff(base_s=0.1, cap_s=2.0)

PrepareSession = Callable[[Session], Awaitable[None]]
OnChange = Callable[[bool, str | None], None]


class ReconnectingSession:
    """Keeps one session open while `keep()` runs. Users take `session` or wait for it, and report it with `broke()`.

    `target`, when it is a function, is asked at each connect: a rotated password is used without a restart.
    `prepare` runs on every new session before anyone else sees it. `changed(up, reason)` hears of every change.
    """

    def __init__(
        self,
        target: PostgresTarget | Callable[[], PostgresTarget],
        purpose: str,
        *,
        prepare: PrepareSession | None = None,
        changed: OnChange | None = None,
        rng: Random,
    ) -> None:
        self._target = target
        self._purpose = purpose
        self._prepare = prepare
        self._changed = changed or (lambda up, reason: None)
        self._rng = rng
        self._up = anyio.Event()  # replaced by keep() for each session
        self._down = anyio.Event()
        self.session: Session | None = None  # written by keep() and broke()
        self.siblings: Sequence[ReconnectingSession] = ()  # to the same server; written by their owner before keep()

    async def keep(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the session open until cancelled. Reports started after the first try, successful or not.

        Raises Misconfigured when a person has to act and no session was ever open; later the same error is waited out,
        because a password may be changing under us.
        """
        attempt, ever_up, started, opened_at = 0, False, False, 0.0
        try:
            while True:
                try:
                    session = await self._open()
                except DispatcherError as error:
                    if isinstance(error, Misconfigured) and not ever_up:
                        raise
                    attempt += 1
                    self._changed(False, str(error))
                else:
                    attempt, ever_up, opened_at = 0, True, monotonic()
                    self._down = anyio.Event()
                    self.session = session
                    self._changed(True, None)
                    self._up.set()
                if not started:
                    started = True
                    task_status.started()
                if self.session is not None:
                    await self._down.wait()
                    self._up = anyio.Event()
                # A session that breaks as soon as it is opened must not make this a busy loop.
                short_lived = attempt == 0 and monotonic() - opened_at < 1.0
                pause_s = RECONNECT.reconnect_delay(max(attempt, 1), self._rng) if attempt or short_lived else 0.0
                await anyio.sleep(pause_s)
        finally:
            await self.close()

    async def _open(self) -> Session:
        target = self._target() if callable(self._target) else self._target
        session = await connect(target, self._purpose)
        try:
            if self._prepare is not None:
                await self._prepare(session)
        except SessionLost as error:
            await session.close()
            raise Unreachable(str(error)) from None
        except psycopg.Error as error:
            await session.close()
            raise Unreachable(describe(error)) from None
        except BaseException:
            await session.close()
            raise
        return session

    async def get(self) -> Session:
        """The session, waiting until there is one."""
        while self.session is None:
            await self._up.wait()
        return self.session

    async def wait_broken(self) -> None:
        """Wait until the session there is now is of no use any more."""
        await self._down.wait()

    async def report_broken(self, session: Session, reason: str) -> None:
        """Report that `session` is of no use any more; `keep()` opens another. Idempotent."""
        if session is self.session:
            self.session = None
            self._changed(False, reason)
            self._down.set()
            if session.silent:
                # The network swallows everything: found out one after another, each would cost a deadline of its own.
                for companion in self.siblings:
                    companion.doubt()
        await session.close()

    def doubt(self) -> None:
        """Whoever uses the session, now or next, finds it broken and gets another."""
        if self.session is not None:
            self.session.cut()

    async def close(self) -> None:
        """Close the session, if there is one."""
        session, self.session = self.session, None
        if session is not None:
            await session.close()
