"""The open-loop producer: a process that commits events at a given rate, however slow the rest is.

Event k is due at start + k / rate; when commits are slow, events queue here and go out late, none is left out. Each
is its own committed transaction, unless more are overdue than there are connections and `max_group` allows several to
share one. It makes libpq's asynchronous calls on one thread: tens of microseconds of Python a transaction, so that the
generator does not use up the machine it measures.
"""

import gc
import select
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from dispatcher.demo.cleanup import leave_stopping_to_parent
from dispatcher.demo.messages import CannotGoOn, Committed, ProducerDone, Ready, Start
from dispatcher.demo.payloads import COLUMNS, sample_events

REPORT_EVERY_NS = 100_000_000
CASTS = ("uuid", "uuid", "text", "text", "jsonb", "jsonb")  # of COLUMNS


@dataclass(frozen=True, slots=True)
class Load:
    """What to produce, and where."""

    conninfo: str
    rate: float  # events a second
    seconds: float
    connections: int = 8
    max_group: int = 1  # events that may share a transaction once more are overdue than connections are free
    seed: int = 0
    statement: str | None = None  # to run for each event instead of our INSERT; $1 to $6 are COLUMNS. No groups then

    @property
    def events(self) -> int:
        return max(1, round(self.rate * self.seconds))


def connections_for(rate: float) -> int:
    """A few at a low rate; enough for each to commit 250 times a second at a high one."""
    return min(32, max(4, round(rate / 250)))


def produce(load: Load, pipe: Connection) -> None:
    """The body of the process: connect, report Ready, wait for Start, produce, report ProducerDone."""
    leave_stopping_to_parent()
    try:
        opened = [_open(load) for _ in range(load.connections)]
        pipe.send(Ready())
        start = pipe.recv()
        if isinstance(start, Start):
            pipe.send(_Producer(load, [session.pgconn for session in opened], pipe).run(start.at_ns))
        for session in opened:
            session.close()
    except (psycopg.Error, ValueError) as error:
        pipe.send(CannotGoOn(f"the producer failed: {type(error).__name__}: {_first_line(error)}"))
    except (BrokenPipeError, EOFError):
        pass  # the parent is gone; nobody is left to tell


def _first_line(error: Exception) -> str:
    """A message without its DETAIL, which may quote a row."""
    return (str(error).strip().splitlines() or [""])[0]


def _insert(size: int) -> bytes:
    width = len(COLUMNS)
    rows = (
        "(" + ", ".join(f"${row * width + i + 1}::{cast}" for i, cast in enumerate(CASTS)) + ")" for row in range(size)
    )
    return f"INSERT INTO messaging.message_outbox ({', '.join(COLUMNS)}) VALUES {', '.join(rows)}".encode()  # noqa: S608


def _open(load: Load) -> psycopg.Connection[tuple[object, ...]]:
    """A connection with the inserts of every group size prepared, ready for asynchronous calls."""
    session = psycopg.connect(load.conninfo, autocommit=True, connect_timeout=10, application_name="outbox-producer")
    for size in range(1, load.max_group + 1):
        statement = load.statement.encode() if load.statement else _insert(size)
        result = session.pgconn.prepare(b"insert_%d" % size, statement)
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
    session.pgconn.nonblocking = 1
    return session


class _Producer:
    """The loop's state, written by one thread."""

    def __init__(self, load: Load, sessions: list[PGconn], pipe: Connection) -> None:
        self.load = load
        self.pipe = pipe
        self.by_socket = {session.socket: session for session in sessions}
        self.idle = list(sessions)  # last in, first out: at a low rate one warm backend does the work
        self.in_flight: dict[int, list[bytes]] = {}  # socket to the event ids of its open transaction
        self.committed: list[tuple[int, bytes]] = []  # not yet reported
        self.rows = sample_events(Random(load.seed))  # noqa: S311
        self.transactions = 0
        self.grouped = 0  # events that shared a transaction
        self.latest_ns = 0  # how far behind its due time the most belated event was begun

    def run(self, start_ns: int) -> ProducerDone:
        """Produce from `start_ns` (this machine's monotonic clock) on, and return the totals."""
        gc.disable()  # a collection would be measured as latency; the process ends with the run
        total, gap_ns = self.load.events, 1e9 / self.load.rate
        begun, reported_at, now = 0, start_ns, start_ns
        while begun < total or self.in_flight:
            now = time.perf_counter_ns()
            due = min(total, int((now - start_ns) // gap_ns) + 1) if now >= start_ns else 0
            while begun < due and self.idle:
                overdue = due - begun
                size = min(self.load.max_group, -(-overdue // len(self.by_socket)), overdue)
                self.latest_ns = max(self.latest_ns, now - start_ns - int(begun * gap_ns))
                self._begin(size)
                begun += size
            next_due_ns = start_ns + int(begun * gap_ns) if begun < total and self.idle else now + REPORT_EVERY_NS
            self._collect(max(0.0, min(next_due_ns - now, REPORT_EVERY_NS) / 1e9))
            if now - reported_at >= REPORT_EVERY_NS:
                self._report()
                reported_at = now
        self._report()
        return ProducerDone(begun, self.transactions, self.grouped, (now - start_ns) / 1e9, self.latest_ns / 1e9)

    def _begin(self, size: int) -> None:
        """Send one transaction of `size` events on an idle connection."""
        session = self.idle.pop()
        rows = [next(self.rows) for _ in range(size)]
        session.send_query_prepared(b"insert_%d" % size, [value for row in rows for value in row])
        while session.flush():  # more than the socket's buffer takes: the rest must go out before the server answers
            select.select([], [session.socket], [], 1.0)
        self.in_flight[session.socket] = [row[0] for row in rows if row[0] is not None]
        self.transactions += 1
        self.grouped += size if size > 1 else 0

    def _collect(self, timeout_s: float) -> None:
        """Wait for commits to return and note the moment. The clock is read before the results are unpacked."""
        readable, _, _ = select.select(list(self.in_flight), [], [], timeout_s)
        now = time.perf_counter_ns()
        for socket in readable:
            session = self.by_socket[socket]
            session.consume_input()
            if session.is_busy():
                continue
            result = session.get_result()
            if result is None or result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                text = result.error_message.decode(errors="replace") if result else "the connection closed"
                raise psycopg.OperationalError(text)
            session.get_result()  # the end mark, already read
            self.committed.extend((now, event_id) for event_id in self.in_flight.pop(socket))
            self.idle.append(session)

    def _report(self) -> None:
        if self.committed:
            self.pipe.send(Committed(self.committed))
            self.committed = []
