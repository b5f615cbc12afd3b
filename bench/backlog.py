"""A backlog: written, worked off by so many dispatchers that all begin at the same moment, and looked at afterwards."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from random import Random
from typing import Any

import psycopg

from bench.processes import cpu_seconds, memory_bytes
from bench.progress import Legs
from bench.servers import STREAM, Rig
from bench.stream import look
from dispatcher.core.errors import DispatcherError
from dispatcher.demo.payloads import COLUMNS, sample_events
from dispatcher.demo.process import DispatcherProcess

STALLED_S = 60.0
SAMPLES = 4096
CHUNK = 100_000
SAMPLE_TABLE = """
    CREATE TEMP TABLE bench_samples (n integer, event_type text, aggregate_id text, payload jsonb, headers jsonb)
"""
WAITING = """
    SELECT count(DISTINCT split_part(application_name, ' ', 3)) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND application_name LIKE 'dispatcher %' AND datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class WorkedOff:
    """What working off one backlog took. Processor time is the dispatchers' own, from the moment they could begin."""

    rows: int
    per_second: float  # from the first entry's stream id to the last one's
    seconds: float
    cpu_s_per_1000: float
    wal_bytes_per_1000: float
    server_cpu_s_per_1000: dict[str, float]
    peak_memory_bytes: int  # of the largest process
    lost: int
    duplicated: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def fill(servers: Rig, rows: int, legs: Legs | None = None, *, settled: bool = False, small: bool = False) -> None:
    """Insert so many sample events, on the server. `settled`: as if sent long ago. `small`: tiny payloads."""
    columns = ", ".join(COLUMNS[2:])
    extra, values = (", status, sent_at, stream_id", ", 'sent', now(), '0-1'") if settled else ("", "")
    source = columns.replace("payload", "'{\"v\": 1}'::jsonb") if small else columns
    insert = f"""
        INSERT INTO messaging.message_outbox ({columns}{extra})
        SELECT {source}{values}
        FROM generate_series(%s::integer, %s::integer) AS i JOIN bench_samples AS s ON s.n = i %% {SAMPLES}
    """
    with samples(servers, rows) as cursor:
        for first in range(1, rows + 1, CHUNK):
            cursor.execute(insert.encode(), [first, min(rows, first + CHUNK - 1)])
            if legs is not None:
                legs.within(0.3 * first / rows)


@contextlib.contextmanager
def samples(servers: Rig, seed: int) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
    """A cursor on a session that has sample events in the temporary table bench_samples, n from 0 to SAMPLES - 1."""
    with servers.connect() as connection, connection.cursor() as cursor:
        cursor.execute(SAMPLE_TABLE)
        with cursor.copy("COPY bench_samples FROM STDIN") as copy:
            for number, sample in enumerate(islice(sample_events(Random(seed)), SAMPLES)):
                copy.write_row([number, *(None if value is None else value.decode() for value in sample[2:])])
        cursor.execute("ANALYZE bench_samples")
        yield cursor


def work_off(
    servers: Rig,
    rows: int,
    legs: Legs,
    *,
    dispatchers: int = 1,
    settings: dict[str, str] | None = None,
    meanwhile: contextlib.AbstractContextManager[object] | None = None,
    command: Sequence[str] | None = None,
    streams: Sequence[str] = (STREAM,),
    after_fill: Callable[[Rig], None] = lambda _servers: None,
) -> WorkedOff:
    """Fill, then let the dispatchers loose, `meanwhile` in force; `command`: another program than `dispatcher run`;
    `streams`: the keys that the events go to; `after_fill` may change the rows.
    Raises DispatcherError when nothing moves any more.
    """
    servers.empty(streams)
    fill(servers, rows, legs)
    after_fill(servers)
    settings = {"REDIS_STREAM_MAXLEN": str(max(1_000_000, 2 * rows)), **(settings or {})}
    running: list[DispatcherProcess] = []
    try:
        with meanwhile or contextlib.nullcontext():
            with _all_waiting(servers, dispatchers) as wait:
                running += [servers.launch_dispatcher(command=command, **settings) for _ in range(dispatchers)]
                wait(running)
                cpu, servers_cpu, wal = _cpu(running), servers.server_cpu_seconds(), _wal(servers)
            until_published(servers, running, rows, legs, streams)
            servers.wait_drained(running[0])
        cpu = _cpu(running) - cpu
        servers_after = servers.server_cpu_seconds()
        wal = _wal(servers) - wal
        peak = max(memory_bytes(process.pid, peak=True) for process in running)
    finally:
        for process in running:
            process.stop()
    found = look(servers, streams=streams)
    thousands = rows / 1000
    return WorkedOff(
        rows=rows,
        per_second=found.entries / found.seconds,
        seconds=found.seconds,
        cpu_s_per_1000=cpu / thousands,
        wal_bytes_per_1000=wal / thousands,
        server_cpu_s_per_1000={
            name: (servers_after[name] - before) / thousands for name, before in servers_cpu.items()
        },
        peak_memory_bytes=peak,
        lost=found.lost,
        duplicated=found.duplicated,
    )


@contextlib.contextmanager
def _all_waiting(servers: Rig, dispatchers: int) -> Iterator[Any]:
    """Nobody can claim until the block is left: the table is locked. Yields a function that waits until all would."""

    def wait(running: Sequence[DispatcherProcess]) -> None:
        deadline = time.monotonic() + 90.0
        with servers.connect() as watch:
            while watch.execute(WAITING).fetchone() != (dispatchers,):
                for process in running:
                    process.check()
                if time.monotonic() > deadline:
                    raise DispatcherError(f"not all of {dispatchers} dispatchers tried to claim within 90 s")
                time.sleep(0.02)

    with servers.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE messaging.message_outbox IN ACCESS EXCLUSIVE MODE")
        yield wait


def until_published(
    servers: Rig, running: Sequence[Any], rows: int, legs: Legs, streams: Sequence[str] = (STREAM,)
) -> None:
    """Watch the streams' lengths: the cheapest look there is. Raises DispatcherError when it stops growing."""
    length, grown_at = -1, time.monotonic()
    with servers.clients(streams) as clients:
        while length < rows:
            for process in running:
                process.check()
            now = 0
            for client, held in clients:
                with client.pipeline(transaction=False) as pipeline:
                    for stream in held:
                        pipeline.xlen(stream)
                    now += sum(pipeline.execute())
            if now != length:
                length, grown_at = int(now), time.monotonic()
            elif time.monotonic() - grown_at > STALLED_S:
                words = running[0].last_lines()
                raise DispatcherError(f"{length:,} of {rows:,} entries, none new for {STALLED_S:.0f} s:\n{words}")
            legs.within(0.3 + 0.7 * length / rows)
            time.sleep(0.05)


def _cpu(running: Sequence[DispatcherProcess]) -> float:
    return sum(cpu_seconds(process.pid) for process in running)


def _wal(servers: Rig) -> int:
    return int(servers.value("SELECT pg_current_wal_insert_lsn() - '0/0'"))


@contextlib.contextmanager
def snapshot_held(servers: Rig) -> Iterator[None]:
    """Another session's snapshot, open throughout: no dead row of what happens meanwhile can be cleared away."""
    with servers.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1")
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.OperationalError):
                connection.execute("ROLLBACK")
