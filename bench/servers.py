"""What a scenario runs against: Postgres and Valkey of our own, or a deployment given by its URLs."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psycopg
import redis

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.demo.child import DispatcherProcess
from dispatcher.demo.ending import ending_in_order, scratch_folder
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from dispatcher.infra.migrations import migrate

STREAM = "bench:messages"
POSTGRES_SETTINGS = {  # durable: fsync, full_page_writes and synchronous_commit stay on
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
}


@dataclass(slots=True)
class Rig:
    """The servers of one run. Made by `rig`."""

    database_url: str
    redis_url: str
    folder: Path
    pgbench: Path
    stack: contextlib.ExitStack
    dispatcher_settings: Mapping[str, str]
    started: int = field(default=0)

    def start_dispatcher(self) -> DispatcherProcess:
        """A dispatcher, ready. It is stopped at the end, or before by its `stop`."""
        self.started += 1
        settings = {
            "DISPATCHER_ENABLED": "true",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "DISPATCH_STREAM_NAME": STREAM,
            "DISPATCH_HTTP_HOST": "127.0.0.1",
            "DISPATCH_HTTP_PORT": str(free_port()),
            **self.dispatcher_settings,
        }
        process = DispatcherProcess(settings, self.folder / f"dispatcher-{self.started}.log")
        self.stack.enter_context(process).wait_ready()
        return process

    def script(self, sql: str) -> None:
        """Run a script as it stands: several statements, no parameters."""
        with self._connect() as connection:
            connection.execute(sql.encode())

    def value(self, sql: str) -> Any:
        """The first column of the first row."""
        with self._connect() as connection:
            row = connection.execute(sql.encode()).fetchone()
        return row[0] if row else None

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.database_url, autocommit=True, connect_timeout=10, application_name="outbox-bench")

    def redis(self) -> "redis.Redis":
        """A client for what is not measured. Close it."""
        return redis.Redis.from_url(self.redis_url, protocol=2, socket_timeout=10)

    def backlog(self) -> int:
        """Rows not settled."""
        return int(self.value("SELECT count(*) FROM messaging.message_outbox WHERE NOT settled"))

    def wait_drained(self, dispatcher: DispatcherProcess, timeout_s: float = 300.0) -> None:
        """Returns when every row is settled. Raises DispatcherError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while rows := self.backlog():
            dispatcher.check()
            if time.monotonic() > deadline:
                raise DispatcherError(f"{rows:,} rows were still unsettled {timeout_s:.0f} s after the last insert")
            time.sleep(0.05)

    def empty(self) -> None:
        """An empty table and stream and a fresh checkpoint, so that legs begin equal."""
        self.script("TRUNCATE messaging.message_outbox")
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            self.script("CHECKPOINT")
        with contextlib.closing(self.redis()) as client:
            client.xtrim(STREAM, maxlen=0, approximate=False)


@contextlib.contextmanager
def rig(database_url: str | None, redis_url: str | None, settings: Sequence[str]) -> Iterator[Rig]:
    """Start what no URL was given for. `settings`: NAME=VALUE for the dispatcher."""
    with ending_in_order() as stack:
        folder = stack.enter_context(scratch_folder("dispatcher-bench-"))
        postgres = EmbeddedPostgres(folder / "postgres", options=POSTGRES_SETTINGS)
        pgbench = postgres.bin("pgbench")
        if database_url is None:
            database_url = stack.enter_context(postgres).url()
        else:
            _require_empty(database_url)
        if redis_url is None:
            redis_url = stack.enter_context(EmbeddedValkey(folder / "valkey")).url
        anyio.run(migrate, database_url)
        yield Rig(database_url, redis_url, folder, pgbench, stack, _parsed(settings))


def _parsed(settings: Sequence[str]) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise Misconfigured(f"--set takes NAME=VALUE, not '{name}'")
    return {name: value for name, _, value in pairs}


def _require_empty(database_url: str) -> None:
    """A scenario empties the outbox. Raises Misconfigured when there is something in it."""
    try:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
            there = connection.execute("SELECT to_regclass('messaging.message_outbox') IS NOT NULL").fetchone()
            if there == (True,) and connection.execute("SELECT 1 FROM messaging.message_outbox LIMIT 1").fetchone():
                raise Misconfigured(
                    "messaging.message_outbox in that database has rows, and a benchmark truncates it: "
                    "give it a database of its own"
                )
    except psycopg.OperationalError:
        raise Unreachable("--database-url: Postgres does not answer, or refuses the login") from None
