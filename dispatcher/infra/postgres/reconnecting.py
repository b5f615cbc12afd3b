"""A Postgres session that comes back: opened, watched and reopened with capped, jittered backoff."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from time import monotonic
from typing import Protocol

import anyio
import psycopg
from anyio.abc import TaskStatus

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import DispatcherError, Misconfigured, NoConnectionLeft, SessionLost, Unreachable
from dispatcher.infra.blocking import CurrentSetting
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.precedence import Precedence
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load

RECONNECT = Backoff(base_s=0.1, cap_s=2.0)

PrepareSession = Callable[[Session], Awaitable[None]]
OnChange = Callable[[bool, str | None], None]


class Replaceable(Protocol):
    """A session that somebody owns and opens again."""

    def replace(self, reason: str) -> None:
        """Lose the session there is now."""


class ReconnectingSession:
    """Keeps one session open while `keep()` runs. Users take `session` or wait for it with `get()`.

    A lost session replaces itself: whoever gets SessionLost takes the next session, and has nothing to report. When the
    server itself is gone (silent, or read-only since a switch), `other_sessions` are cut too: found out one after
    another, each would cost a deadline of its own, and those that only read would never find out.

    `target`, when it is a function, is asked at each connect: a rotated password is used without a restart.
    """

    def __init__(self, target: PostgresTarget | Callable[[], PostgresTarget], purpose: str, *, rng: Random) -> None:
        self._target = CurrentSetting(target) if callable(target) else target
        self.purpose = purpose
        self._rng = rng
        self._prepare: list[PrepareSession] = []
        self._on_change: list[OnChange] = []
        self._up = anyio.Event()  # replaced by _lost()
        self._look = anyio.Event()  # replaced whenever this session or one of `stand_ins` comes up
        self._down = anyio.Event()  # replaced by keep() for each session
        self._denied = anyio.Event()  # replaced by _until_lost()
        self._opened = ""  # the connection string of the session; written by _open()
        self.session: Session | None = None  # written by keep() and _lost()
        self.opening: Session | None = None  # connected, and being prepared; written by _open()
        # Server processes of sessions that were lost: the server may not know, and keep their locks. See _end_former().
        self._former: set[int] = set()
        self.other_sessions: Sequence[Replaceable] = ()  # to the same server; written by their owner before keep()
        # Sessions that can do what this one does: for a lane the other lanes. Written as `other_sessions` is.
        self.stand_ins: Sequence[ReconnectingSession] = ()
        self.precedence: Precedence | None = None  # which session comes first; written as `other_sessions` is

    def prepare(self, step: PrepareSession) -> None:
        """Run `step` on every new session before anyone else sees it, after the steps added before. Before `keep()`."""
        self._prepare.append(step)

    def on_change(self, listener: OnChange) -> None:
        """Call `listener(up, reason)` at every change, and at every attempt that fails. Before `keep()`."""
        self._on_change.append(listener)

    async def keep(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the session open until cancelled. Reports started after the first try, successful or not.

        Raises Misconfigured when a person has to act and no session was ever open; later the same error is waited out,
        because a password may be changing under us.
        """
        attempt, ever_up, started, opened_at = 0, False, False, 0.0
        session: Session | None = None
        try:
            while True:
                if self.precedence is not None:
                    if not started and self.precedence.ahead(self) is not None:
                        started = True
                        task_status.started()
                    await self.precedence.wait_turn(self)
                try:
                    session = await self._open()
                    if self.precedence is not None and self.precedence.ahead(self) is not None:
                        # It got the connection that another one gave up for a session before it.
                        await session.close()
                        session = None
                        continue
                except DispatcherError as error:
                    if isinstance(error, Misconfigured) and not ever_up:
                        raise
                    attempt += 1
                    self._failed(error)
                else:
                    attempt, ever_up, opened_at = 0, True, monotonic()
                    self._down = anyio.Event()
                    session.watch(self._lost, self._doubt_role)
                    self.session = session
                    self._changed(True, None)
                    self._up.set()
                    for each in (self, *self.stand_ins):
                        each.look_again()
                    if self.precedence is not None:
                        self.precedence.found_one(self)
                if not started:
                    started = True
                    task_status.started()
                if session is not None:
                    await self._until_lost(session)
                    self._note_former(session)
                    await session.close()
                    session = None
                # A session that breaks as soon as it is opened must not make this a busy loop.
                short_lived = attempt == 0 and monotonic() - opened_at < 1.0
                pause_s = RECONNECT.reconnect_delay(max(attempt, 1), self._rng) if attempt or short_lived else 0.0
                await anyio.sleep(pause_s)
        finally:
            self.session = None
            if session is not None:
                await session.close()

    async def _until_lost(self, session: Session) -> None:
        """Wait until the session is lost; give it up when its role is denied something and the settings name another.

        A role that was replaced, as by Vault, loses its rights and keeps its sessions.
        """
        while self.session is session:
            self._denied = anyio.Event()
            await self._denied.wait()
            if self.session is session and await self._is_outdated() and self.session is session:
                session.server_gone = True
                session.lose("the settings name another role or password by now")

    async def _is_outdated(self) -> bool:
        try:
            return isinstance(self._target, CurrentSetting) and (await self._target.get()).conninfo != self._opened
        except DispatcherError:  # the file that holds the URL or the password is gone or half written
            return False

    def _doubt_role(self) -> None:
        self._denied.set()

    async def _open(self) -> Session:
        target = await self._target.get() if isinstance(self._target, CurrentSetting) else self._target
        self._opened = target.conninfo
        session = await connect(target, self.purpose)
        self.opening = session
        try:
            await self._run_steps(session)
            if session.closed:  # given up after its last answer came: nobody would be told of that any more
                raise session.lose("the session is closed")
        except (SessionLost, psycopg.Error) as error:
            self._note_former(session)
            await session.close()
            if session.server_gone:
                self._replace_others(describe(error))
            raise Unreachable(describe(error)) from None
        except BaseException:
            await session.close()
            raise
        finally:
            self.opening = None
        return session

    async def _run_steps(self, session: Session) -> None:
        """Prepare the session. A cancellation cuts it: its statement is shielded, and would hold up the end."""

        async def steps() -> None:
            await self._end_former(session)
            for step in self._prepare:
                await step(session)

        preparing = asyncio.ensure_future(steps())
        try:
            await asyncio.wait([preparing])
        except asyncio.CancelledError:
            session.cut()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([preparing])
            if not preparing.cancelled():
                preparing.exception()  # else asyncio says that nobody asked for it
            raise
        preparing.result()

    def _note_former(self, session: Session) -> None:
        if not session.pooled:  # behind a transaction pooler no server process is ours
            self._former.add(session.backend_pid)

    async def _end_former(self, session: Session) -> None:
        """End sessions of ours that were lost, where the server goes on with them.

        Behind a proxy that keeps its side open the server would never learn of the loss, and nobody else would get
        their locks.
        """
        if not self._former or session.pooled:
            return
        with suppress(psycopg.Error):  # of a role that was replaced meanwhile, for instance
            await session.fetch(load("end_former"), {"pids": list(self._former)})
            self._former.clear()

    async def get(self) -> Session:
        """The session, waiting until there is one."""
        while self.session is None:
            await self._up.wait()
        return self.session

    async def get_any(self) -> Session:
        """The session, or the first of `stand_ins` that is open; waits until there is one."""
        while True:
            for each in (self, *self.stand_ins):
                if each.session is not None:
                    return each.session
            await self._look.wait()

    def look_again(self) -> None:
        """Wake those that wait in `get_any()`: a session came up that may serve them."""
        waited_for, self._look = self._look, anyio.Event()
        waited_for.set()

    async def get_unless(self, stopping: anyio.Event) -> Session | None:
        """The session, waiting until there is one, or None when told to stop first."""
        if self.session is None and not stopping.is_set():
            async with anyio.create_task_group() as waiting:

                async def stop() -> None:
                    await stopping.wait()
                    waiting.cancel_scope.cancel()

                waiting.start_soon(stop, name="stop while the database is down")
                await self.get()
                waiting.cancel_scope.cancel()
        return None if stopping.is_set() else self.session

    async def wait_lost(self) -> None:
        """Wait until the session there is now is lost."""
        await self._down.wait()

    def replace(self, reason: str) -> None:
        """Lose the session there is now, or that is being prepared, whatever state it is in, and open another."""
        if (session := self.session or self.opening) is not None:
            session.lose(reason)

    def _lost(self, reason: str) -> None:
        session, self.session = self.session, None
        if session is None:
            return  # keep() ends, and its close cut a statement: nobody lost anything
        self._up = anyio.Event()
        self._changed(False, reason)
        self._down.set()
        self._denied.set()
        if session.server_gone:
            self._replace_others(reason)

    def _replace_others(self, reason: str) -> None:
        for other in self.other_sessions:
            other.replace(reason)

    def _failed(self, error: DispatcherError) -> None:
        if self.precedence is not None:
            if isinstance(error, NoConnectionLeft) and (
                error.sure or self.precedence.server_is_there(self, silent=error.silent)
            ):
                self.precedence.found_none(self, str(error), silent=error.silent)
            else:
                self.precedence.found_one(self)
        self._changed(False, str(error))

    def _changed(self, up: bool, reason: str | None) -> None:
        for listener in self._on_change:
            listener(up, reason)
