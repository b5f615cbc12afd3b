"""One Postgres session: opened with the right settings, its statements never cut, its errors told apart.

A statement is never cut by a cancel scope: psycopg would close the connection while the server goes on with the
statement. It runs shielded, bounded by the server's statement_timeout and, for a network that swallows everything, by
shutting the socket down, which ends the wait with an ordinary connection error.
"""

import asyncio
import math
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra.postgres.connect_errors import explain

MINIMUM_VERSION = 140000
CLOSE_S = 1.0  # for a statement that was cut to end; it does so at once
NO_DESCRIPTOR_S = 0.1  # between two looks while the process has no file descriptor left
MAX_NOTIFICATIONS = 1000  # kept until they are drained; the oldest go first

# Somebody altered the table, or threw our prepared statements away: this session would fail for ever, a new one works.
_STALE_STATEMENTS = ("0A000", "26000")
_READ_ONLY_TRANSACTION = "25006"
READ_ONLY = "the server became read-only: it is a standby, or about to be one"


# Runs one statement and returns its rows: what a session does, for those who need not know whose session it is.
Fetch = Callable[[str, Mapping[str, object] | None], Awaitable[list[tuple[Any, ...]]]]


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """A database to connect to and how. `pooled`: behind a transaction pooler, where session settings do not last."""

    conninfo: str = field(repr=False)
    application_name: str
    connect_timeout_s: float = 10.0
    query_timeout_s: float = 30.0
    pooled: bool = False

    def address(self) -> str:
        """host:port/database, for messages; never the user's password."""
        try:
            parts = conninfo_to_dict(self.conninfo)
        except psycopg.ProgrammingError:
            return "(unreadable connection string)"
        host = parts.get("host") or parts.get("hostaddr") or "local socket"
        if any("@" in str(parts.get(part) or "") for part in ("host", "port", "dbname")):
            return "(an address that cannot be told from the password: write @ as %40 and / as %2F in it)"
        return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"

    def patience_s(self) -> float:
        """How long connecting may take in all: each of several hosts may be the one that swallows everything."""
        parts = conninfo_to_dict(self.conninfo)
        more = str(parts.get("host") or parts.get("hostaddr") or "").count(",")
        return self.connect_timeout_s + more * self._host_timeout_s()

    def _host_timeout_s(self) -> int:
        return max(2, math.ceil(self.connect_timeout_s))  # libpq's least

    def full_conninfo(self, purpose: str, *, pooled: bool) -> str:
        """The connection string with our timeouts, keepalives and, unless pooled, session settings added."""
        parts = conninfo_to_dict(self.conninfo)
        extra: dict[str, Any] = {
            "application_name": f"dispatcher {purpose} {self.application_name}"[:63],
            "connect_timeout": self._host_timeout_s(),
            "client_encoding": "utf8",
            "keepalives": 1,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        }
        if not pooled:  # a transaction pooler refuses unknown start-up parameters
            extra["options"] = " ".join(filter(None, (str(parts.get("options") or ""), self._session_settings())))
        return make_conninfo(self.conninfo, **extra)

    def _session_settings(self) -> str:
        settings = {
            # Losing an unflushed claim or settle in a crash repeats work; it never loses any.
            "synchronous_commit": "off",
            "statement_timeout": f"{round(self.query_timeout_s * 1000)}",
            "idle_in_transaction_session_timeout": "60000",
            # Whatever the role was given: a settle with a snapshot older than the lock it waited for would not see that
            # another incarnation of Redis holds the stream; a time with a zone's abbreviation is read as another time.
            "default_transaction_isolation": r"read\ committed",
            "datestyle": "ISO",
            # A prepared plan made while the table was empty must not read it all, or sort it all, when it is full.
            "enable_seqscan": "off",
            "enable_sort": "off",
            "jit": "off",
            # A vanished host must free its locks in about ten seconds, not in two hours.
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": "10000",
            "client_connection_check_interval": "10000",
            "idle_session_timeout": "0",  # after the line before, which tells a server that is too old
        }
        return " ".join(f"-c {name}={value}" for name, value in settings.items())


def describe(error: BaseException) -> str:
    """Class and code of an error, fit for logs and `last_error`: psycopg's own text may quote the failing row."""
    if isinstance(error, DispatcherError):
        return str(error)
    if isinstance(error, psycopg.Error):
        primary = error.diag.message_primary
        if primary:
            return f"{type(error).__name__} {error.sqlstate}: {primary}"
        return type(error).__name__ + (f" {error.sqlstate}" if error.sqlstate else "")
    return type(error).__name__


class Session:
    """One autocommit session. Statements of several tasks run one after another; notifications are for one task."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], deadline_s: float) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        self._lock = anyio.Lock(fast_acquire=True)
        self._deadline_s = deadline_s
        self._prepare = True
        # Bounded: while nobody sleeps nobody drains them, and any one of them wakes.
        self._notifications: deque[tuple[str, str, int]] = deque(maxlen=MAX_NOTIFICATIONS)
        self._loop = asyncio.get_running_loop()
        self._lost: str | None = None  # the reason; written by lose()
        self._on_lost: Callable[[str], None] | None = None  # this and the next are written by watch()
        self._must_write = False
        self.backend_pid = connection.info.backend_pid
        self.pooled = False
        # What ended this session ends others to the same server too: it is silent, or it takes no writes any more.
        self.server_gone = False
        connection.add_notify_handler(lambda n: self._notifications.append((n.channel, n.payload, n.pid)))

    def treat_as_pooled(self) -> None:
        """Prepare nothing: behind a transaction pooler each transaction may meet another server process."""
        self.pooled, self._prepare = True, False
        self._connection.prepare_threshold = None

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """From now on the session is lost once the server takes no writes; `on_lost(reason)` is called at any loss.

        A primary that was replaced keeps its sessions, and most of ours only read: each would work on, on the wrong
        server. Postgres tells a session with its next answer that the server became read-only.
        """
        self._on_lost, self._must_write = on_lost, True

    @property
    def closed(self) -> bool:
        """True once the session was lost or closed."""
        return self._lost is not None or self._connection.closed

    async def fetch(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement to its end, whatever happens to the caller, and return its rows.

        Raises SessionLost when the session was lost (the statement's effect is unknown) and psycopg.Error when the
        server refused the statement.
        """
        return await self._execute(self._cursor, sql, params, prepare=self._prepare)

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
            await self._lock.acquire()
            watchdog = self._loop.call_later(self._deadline_s, self._give_up)
            try:
                await cursor.execute(sql.encode(), params, prepare=prepare)
                if cursor.description is not None:
                    rows = await cursor.fetchall()
                if self._must_write and self._server_is_read_only():
                    self.server_gone = True
                    raise self.lose(READ_ONLY)
            except psycopg.Error as error:
                if self._must_write and error.sqlstate == _READ_ONLY_TRANSACTION:
                    self.server_gone = True
                    raise self.lose(READ_ONLY) from None
                if self._connection.closed or error.sqlstate in _STALE_STATEMENTS:
                    raise self.lose(describe(error)) from None
                raise
            finally:
                watchdog.cancel()
                self._lock.release()
        return rows

    def _server_is_read_only(self) -> bool:
        """What the server said last, without a round trip: since PostgreSQL 14 it reports both with its answers.

        What a pooler says is not of today: it greets with what its first connection to the server was told.
        """
        if self.pooled:
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
            pgconn.consume_input()
            while notice := pgconn.notifies():
                self._notifications.append((notice.relname.decode(), notice.extra.decode(), notice.be_pid))
        except psycopg.Error as error:
            raise self.lose(describe(error)) from None
        arrived = list(self._notifications)
        self._notifications.clear()
        return arrived

    async def wait_readable(self) -> None:
        """Wait until the server may have sent something. The one wait on a session that may be cancelled any time."""
        if self.closed:
            raise self.lose("the session is closed")
        # A duplicate: libpq may close its own meanwhile, and a new connection's may get the same number.
        try:
            descriptor = os.dup(self._connection.fileno())
        except OSError:  # none is left: the caller looks again
            await anyio.sleep(NO_DESCRIPTOR_S)
            return
        try:
            await anyio.wait_readable(descriptor)
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Close the session; a statement in flight ends with an error. Never raises, never waits for the server."""
        with anyio.CancelScope(shield=True):
            if self._lock.locked():
                self.cut()
            with anyio.move_on_after(CLOSE_S):
                async with self._lock:
                    pass  # the statement has ended
            await self._connection.close()


async def connect(target: PostgresTarget, purpose: str) -> Session:
    """Open a session.

    Raises Misconfigured (wrong password, unknown database, server too old ...: waiting does not help) or Unreachable.
    """
    where = f"Postgres at {target.address()}"
    pooled = target.pooled
    try:
        with anyio.fail_after(target.patience_s()):
            try:
                connection = await _open(target, purpose, pooled=pooled)
            except psycopg.OperationalError as error:
                if "unsupported startup parameter" not in str(error):
                    raise
                pooled = True  # PgBouncer's words
                connection = await _open(target, purpose, pooled=True)
    except TimeoutError:
        raise Unreachable(f"{where} did not answer within {target.patience_s():g} s") from None
    except psycopg.ProgrammingError:
        raise Misconfigured(
            "DATABASE_URL is neither a postgresql:// URL nor libpq key/value pairs such as 'host=db dbname=app user=me'"
        ) from None
    except psycopg.OperationalError as error:
        raise explain(where, error) from None
    session = Session(connection, target.query_timeout_s + 2.0)
    if pooled:
        session.treat_as_pooled()
    if (version := connection.info.server_version) < MINIMUM_VERSION:
        await session.close()
        major = f"{version // 10000}.{version % 10000}" if version >= 100000 else str(version // 10000)
        raise Misconfigured(f"{where} runs PostgreSQL {major}; PostgreSQL 14 or later is needed")
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        await session.close()
        raise Misconfigured(f"{where} has no encoding (SQL_ASCII); a database with ENCODING 'UTF8' is needed")
    try:
        [(pid,)] = await session.fetch("SELECT pg_backend_pid()")
    except (SessionLost, psycopg.Error) as error:
        await session.close()
        raise Unreachable(f"{where}: {describe(error)}") from None
    if pid != session.backend_pid:
        session.treat_as_pooled()  # a pooler invents the process id it announces
    return session


async def _open(target: PostgresTarget, purpose: str, *, pooled: bool) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect(target.full_conninfo(purpose, pooled=pooled), autocommit=True)
