"""What a scenario runs against: Postgres and Valkey of our own, or a deployment given by its URLs."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import psycopg
from redis import Redis
from redis.crc import key_slot

from bench.processes import cpu_seconds
from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.demo.cleanup import ending_in_order, scratch_folder
from dispatcher.demo.process import COMMAND, DispatcherProcess
from dispatcher.embedded import EmbeddedCluster, EmbeddedPostgres, EmbeddedValkey, free_port
from dispatcher.infra.postgres.migrations import migrate

STREAM = "bench:messages"
POSTGRES_SETTINGS = {  # durable: fsync, full_page_writes and synchronous_commit stay on
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
}


class Alive(Protocol):
    """What relays: raises when it has ended."""

    def check(self) -> None:
        """Raises DispatcherError when it has ended."""
        ...


@dataclass(slots=True)
class Rig:
    """The servers of one run. Made by `rig`."""

    database_url: str
    redis_url: str
    folder: Path
    pgbench: Path
    stack: contextlib.ExitStack
    dispatcher_settings: Mapping[str, str]
    server_pids: Mapping[str, int] = field(default_factory=dict)  # of the servers that are our own
    cluster: EmbeddedCluster | None = None  # redis_url is its URL
    started: int = field(default=0)

    def start_dispatcher(self, **settings: str) -> DispatcherProcess:
        """A dispatcher, ready, with these settings beside those asked for. Stopped at the end, or by its `stop`."""
        process = self.launch_dispatcher(**settings)
        process.wait_ready()
        return process

    def launch_dispatcher(self, command: Sequence[str] | None = None, **settings: str) -> DispatcherProcess:
        """The same, not yet ready. `command`: another program than `dispatcher run`, with the same environment."""
        self.started += 1
        variables = {
            "DISPATCHER_ENABLED": "true",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "DISPATCH_STREAM_NAME": STREAM,
            "DISPATCH_HTTP_HOST": "127.0.0.1",
            "DISPATCH_HTTP_PORT": str(free_port()),
            **settings,
            **self.dispatcher_settings,
        }
        log = self.folder / f"dispatcher-{self.started}.log"
        process = DispatcherProcess(variables, log, command=command or COMMAND)
        return self.stack.enter_context(process)

    def server_cpu_seconds(self) -> dict[str, float]:
        """Processor time our own servers have used so far."""
        return {name: cpu_seconds(pid) for name, pid in self.server_pids.items()}

    def script(self, sql: str) -> None:
        """Run a script as it stands: several statements, no parameters."""
        with self.connect() as connection:
            connection.execute(sql.encode())

    def value(self, sql: str) -> Any:
        """The first column of the first row."""
        with self.connect() as connection:
            row = connection.execute(sql.encode()).fetchone()
        return row[0] if row else None

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """An autocommit connection for what is not measured."""
        return psycopg.connect(self.database_url, autocommit=True, connect_timeout=10, application_name="outbox-bench")

    def redis(self) -> Redis:
        """A client of the one server, for what is not measured. Close it."""
        return Redis.from_url(self.redis_url, protocol=2, socket_timeout=10)

    def url_of(self, stream: str) -> str:
        """The URL of the server that holds a stream."""
        return self.redis_url if self.cluster is None else self.cluster.owner(key_slot(stream.encode())).url

    @contextlib.contextmanager
    def clients(self, streams: Sequence[str]) -> Iterator[list[tuple[Redis, list[str]]]]:
        """A client, for what is not measured, of each server, and which of the streams it holds."""
        held: dict[str, list[str]] = {}
        for stream in streams:
            held.setdefault(self.url_of(stream), []).append(stream)
        with contextlib.ExitStack() as stack:
            opened = [Redis.from_url(url, protocol=2, socket_timeout=10) for url in held]
            for client in opened:
                stack.callback(client.close)
            yield list(zip(opened, held.values(), strict=True))

    def backlog(self) -> int:
        """Rows not settled."""
        return int(self.value("SELECT count(*) FROM messaging.message_outbox WHERE NOT settled"))

    def wait_drained(self, dispatcher: Alive, timeout_s: float = 300.0) -> None:
        """Returns when every row is settled. Raises DispatcherError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while rows := self.backlog():
            dispatcher.check()
            if time.monotonic() > deadline:
                raise DispatcherError(f"{rows:,} rows were still unsettled {timeout_s:.0f} s after the last insert")
            time.sleep(0.05)

    def empty(self, streams: Sequence[str] = (STREAM,)) -> None:
        """An empty table, empty streams and a fresh checkpoint, so that legs begin equal."""
        self.script("TRUNCATE messaging.message_outbox")
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            self.script("CHECKPOINT")
        with self.clients(streams) as clients:
            for client, held in clients:
                for stream in held:
                    client.xtrim(stream, maxlen=0, approximate=False)

    def on_cluster(self, cluster: EmbeddedCluster) -> "Rig":
        """The same with a Cluster in place of the one server."""
        folder = self.folder / "on-cluster"  # of its logs
        folder.mkdir()
        pids = {name: pid for name, pid in self.server_pids.items() if name != "valkey"}
        return replace(self, redis_url=cluster.url, cluster=cluster, folder=folder, server_pids=pids)


@contextlib.contextmanager
def rig(
    database_url: str | None,
    redis_url: str | None,
    settings: Sequence[str],
    *,
    postgres_settings: Mapping[str, str] = POSTGRES_SETTINGS,
) -> Iterator[Rig]:
    """Start what no URL was given for. `settings`: NAME=VALUE for the dispatcher."""
    pids: dict[str, int] = {}
    with ending_in_order() as stack:
        folder = stack.enter_context(scratch_folder("dispatcher-bench-"))
        postgres = EmbeddedPostgres(folder / "postgres", options=postgres_settings)
        pgbench = postgres.bin("pgbench")
        if database_url is None:
            database_url = stack.enter_context(postgres).url()
            pids["postgres"] = postgres.pid
        else:
            _require_empty(database_url)
        if redis_url is None:
            valkey = stack.enter_context(EmbeddedValkey(folder / "valkey"))
            redis_url, pids["valkey"] = valkey.url, valkey.pid
        anyio.run(migrate, database_url)
        yield Rig(database_url, redis_url, folder, pgbench, stack, _parsed(settings), pids)


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
