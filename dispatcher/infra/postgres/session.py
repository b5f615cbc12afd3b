"""One Postgres session: its statements are never cut, its errors told apart.

A statement is never cut by a cancel scope: psycopg would close the connection while the server goes on with the
statement. It runs shielded, bounded by the server's statement_timeout and, for a network that swallows everything, by
shutting the socket down, which ends the wait with an ordinary connection error.
"""

import asyncio
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.infra.postgres.prepared import PreparedStatements, UnknownKindError

CLOSE_S = 1.0  # for a statement that was cut to end; it does so at once
MAX_NOTIFICATIONS = 1000  # kept until they are drained; the oldest go first

# Somebody altered the table, or threw our prepared statements away: this session would fail for ever, a new one works.
_STALE_STATEMENTS = ("0A000", "26000")
_READ_ONLY_TRANSACTION = "25006"
_NOT_OURS = ("28", "42")  # no right, no such role: settings may name another role by now
# Of a text that is more than a gigabyte, or (in a database in WIN1252, say) has a character that UTF-8 lacks.
UNREADABLE = (psycopg.errors.ProgramLimitExceeded, psycopg.errors.UntranslatableCharacter)
READ_ONLY = "the server became read-only: it is a standby, or about to be one"


# Runs one statement and returns its rows: what a session does, for those who need not know whose session it is.
Fetch = Callable[[str, Mapping[str, object] | None], Awaitable[list[tuple[Any, ...]]]]


def describe(error: BaseException) -> str:
    """Class and code of an error, fit for logs and `last_error`: psycopg's own text may quote the failing row."""
    if isinstance(error, DispatcherError):
        return str(error)
    if isinstance(error, psycopg.Error):
        primary = error.diag.message_primary
        if primary:
            if (error.sqlstate or "").startswith("22"):  # data exceptions end with the value: invalid input ...: "..."
                primary = re.sub(r": \".*", "", primary, flags=re.DOTALL)
            return f"{type(error).__name__} {error.sqlstate}: {primary}"
        return type(error).__name__ + (f" {error.sqlstate}" if error.sqlstate else "")
    return type(error).__name__


class Session:
    """One autocommit session. Statements of several tasks run one after another; notifications are for one task."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], deadline_s: float) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        self._statements = PreparedStatements(connection)
        self._lock = asyncio.Lock()  # anyio's costs more for each statement, also when it is free
        self._exclusive: asyncio.Task[Any] | None = None  # whose statements alone run now; written by exclusive()
        self._deadline_s = deadline_s
        self._prepare = True
        # Bounded: while nobody sleeps nobody drains them, and any one of them wakes.
        self._notifications: deque[tuple[str, str, int]] = deque(maxlen=MAX_NOTIFICATIONS)
        self._loop = asyncio.get_running_loop()
        self._lost: str | None = None  # the reason; written by lose()
        self._watchdog: asyncio.TimerHandle | None = None  # of the statement that is under way
        self._on_lost: Callable[[str], None] | None = None  # this and the next two are written by watch()
        self._on_denied: Callable[[], None] = lambda: None
        self._must_write = False
        self.backend_pid = connection.info.backend_pid
        self.pooled = False
        self.behind_pooler = False  # also one that keeps sessions
        self.pooler_full = False  # whether it keeps sessions could not be found out: it had no second server connection
        self.refused: tuple[str, ...] = ()  # settings of ours that the server does not take; written by connect()
        # What ended this session ends the others too: the server is silent, takes no writes, or our role was replaced.
        self.server_gone = False
        connection.add_notify_handler(lambda n: self._notifications.append((n.channel, n.payload, n.pid)))

    def treat_as_pooled(self) -> None:
        """Prepare nothing: behind a transaction pooler each transaction may meet another server process."""
        self.pooled, self.behind_pooler, self._prepare = True, True, False
        self._connection.prepare_threshold = None

    @property
    def pooler(self) -> str:
        """What it is behind, where it is `pooled`; to be put into a sentence."""
        if self.pooler_full:
            return "a pooler without a server connection for a second session, so it is taken for one of transactions"
        return "a transaction pooler"

    def treat_as_kept(self, pid: int) -> None:
        """A pooler keeps this session on one server process, which is not the one that it announced."""
        self.behind_pooler, self.backend_pid = True, pid

    def watch(self, on_lost: Callable[[str], None], on_denied: Callable[[], None]) -> None:
        """From now on the session is lost once the server takes no writes; `on_lost(reason)` is called at any loss.

        A primary that was replaced keeps its sessions, and most of ours only read: each would work on, on the wrong
        server. Postgres tells a session with its next answer that the server became read-only. `on_denied()` is called
        when a statement is refused for the sake of our role.
        """
        self._on_lost, self._on_denied, self._must_write = on_lost, on_denied, True

    @property
    def closed(self) -> bool:
        """True once the session was lost or closed."""
        return self._lost is not None or self._connection.closed

    @property
    def silent_s(self) -> float:
        """How long the statement that is under way has waited without a word of the server, in seconds; 0: none is."""
        if self._watchdog is None:
            return 0.0
        asked_at = self._watchdog.when() - self._deadline_s
        return self._loop.time() - max(asked_at, self._statements.heard_at)

    async def fetch(
        self, sql: str, params: Mapping[str, object] | None = None, *, once: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run one statement to its end, whatever happens to the caller, and return its rows. `once`: prepare nothing.

        Raises SessionLost when the session was lost (the statement's effect is unknown) and psycopg.Error when the
        server refused the statement.
        """
        return await self._execute(self._cursor, sql, params, prepare=self._prepare and not once)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Statements of other tasks wait until the block ends: within its transaction they would be rolled back too."""
        async with self._lock:
            self._exclusive = asyncio.current_task()
            try:
                yield
            finally:
                self._exclusive = None

    async def script(self, sql: str) -> None:
        """Run several statements, no parameters: one transaction unless they say otherwise. Raises as `fetch` does."""
        # A text cursor: the binary protocol takes one statement at a time.
        await self._execute(self._connection.cursor(), sql, None, prepare=False)

    async def _execute(
        self,
        cursor: psycopg.AsyncCursor[tuple[Any, ...]],
        sql: str,
        params: Mapping[str, object] | None,
        *,
        prepare: bool,
    ) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        with anyio.CancelScope(shield=True):
            held = self._exclusive is not None and self._exclusive is asyncio.current_task()
            if not held:
                await self._lock.acquire()
            self._watchdog = self._loop.call_later(self._deadline_s, self._give_up)
            try:
                if prepare:
                    try:
                        rows = await self._statements.run(sql, params)
                    except UnknownKindError:
                        rows = await self._with_cursor(cursor, sql, params)
                else:
                    rows = await self._with_cursor(cursor, sql, params)
                if self._must_write and self._server_is_read_only():
                    self.server_gone = True
                    raise self.lose(READ_ONLY)
            except psycopg.Error as error:
                if self._must_write and error.sqlstate == _READ_ONLY_TRANSACTION:
                    self.server_gone = True
                    raise self.lose(READ_ONLY) from None
                if self._connection.closed or error.sqlstate in _STALE_STATEMENTS:
                    raise self.lose(describe(error)) from None
                if (error.sqlstate or "").startswith(_NOT_OURS):
                    self._on_denied()
                raise
            finally:
                self._watchdog.cancel()
                self._watchdog = None
                if not held:
                    self._lock.release()
        return rows

    async def _with_cursor(
        self, cursor: psycopg.AsyncCursor[tuple[Any, ...]], sql: str, params: Mapping[str, object] | None
    ) -> list[tuple[Any, ...]]:
        with self._statements.handed_over():
            await cursor.execute(sql.encode(), params, prepare=False)
            return await cursor.fetchall() if cursor.description is not None else []

    def _server_is_read_only(self) -> bool:
        """What the server said last, without a round trip: since PostgreSQL 14 it reports both with its answers.

        What a pooler says is not of today: it greets with what its first connection to the server was told.
        """
        if self.behind_pooler:
            return False
        status = self._connection.pgconn.parameter_status
        return status(b"default_transaction_read_only") == b"on" or status(b"in_hot_standby") == b"on"

    def _give_up(self) -> None:
        self.server_gone = True
        self.cut()

    def lose(self, reason: str) -> SessionLost:
        """Give the session up, and tell whoever watches it. Idempotent. Returns the error to raise."""
        if self._lost is None:
            self._lost = reason
            self.cut()
            if self._on_lost is not None:
                self._on_lost(reason)
        return SessionLost(self._lost)

    def cut(self) -> None:
        """Shut the socket: whatever waits on this session, now or next, fails at once. For a peer that may be gone."""
        try:
            shared = socket.socket(fileno=self._connection.fileno())
            try:
                shared.shutdown(socket.SHUT_RDWR)
            finally:
                shared.detach()  # the descriptor is libpq's: closed by us, it would be a stranger's next socket
        except (OSError, psycopg.Error):
            pass  # it is gone already, which is what was wanted

    def drain_notifications(self) -> list[tuple[str, str, int]]:
        """Notifications that arrived: (channel, payload, sender's backend pid). Never waits. Raises SessionLost."""
        pgconn = self._connection.pgconn
        try:
            self._statements.read()
            while notice := pgconn.notifies():
                self._notifications.append((notice.relname.decode(), notice.extra.decode(), notice.be_pid))
        except psycopg.Error as error:
            raise self.lose(describe(error)) from None
        arrived = list(self._notifications)
        self._notifications.clear()
        return arrived

    def when_readable(self, call: Callable[[], None] | None) -> None:
        """Call this once when the server may have sent something; None: do not. Raises SessionLost."""
        if call is not None and self.closed:
            raise self.lose("the session is closed")
        self._statements.when_said(call)

    async def wait_readable(self) -> None:
        """Wait until the server may have sent something. The one wait on a session that may be cancelled any time."""
        event = asyncio.Event()
        self.when_readable(event.set)
        try:
            await event.wait()
        finally:
            self.when_readable(None)

    async def close(self) -> None:
        """Close the session; a statement in flight ends with an error. Never raises, never waits for the server."""
        with anyio.CancelScope(shield=True):
            if self._lock.locked():
                self.cut()
            with anyio.move_on_after(CLOSE_S):
                async with self._lock:
                    pass  # the statement has ended
            self._statements.close()
            await self._connection.close()
