"""The consumer: a process that blocks on the stream like a real one, and records when it read each entry.

With a group it reads with XREADGROUP and acknowledges with XACK; without one it reads with XREAD. Replies are parsed
by hiredis and taken as they come: a dictionary an entry would cost more than the dispatcher spends on it.
"""

import gc
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dispatcher.demo.cleanup import leave_stopping_to_parent
from dispatcher.demo.messages import CannotGoOn, ConsumerProgress, Ended, Ready, Stop

BLOCK_MS = 100
REPORT_EVERY_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class DemoReader:
    """The stream to read; `group` None: without a consumer group. `count`: entries of one read."""

    url: str
    stream: str
    group: str | None = None
    count: int = 1000


def consume(reader: DemoReader, pipe: Connection) -> None:
    """The body of the process: start at the stream's end, report Ready, read until Stop."""
    leave_stopping_to_parent()
    try:
        pool = redis.ConnectionPool.from_url(
            reader.url, protocol=2, socket_timeout=10, socket_connect_timeout=10, retry=Retry(NoBackoff(), 0)
        )
        connection: Any = pool.make_connection()
        try:
            connection.connect()
            _Consumer(reader, connection, pipe).run()
        finally:
            connection.disconnect()
    except (redis.RedisError, OSError) as error:
        try:
            pipe.send(CannotGoOn(f"the consumer failed: {type(error).__name__}: {error}"))
        except OSError:
            return  # the parent is gone; nobody is left to tell
    except EOFError:
        return


class _Consumer:
    """The loop's state, written by one thread."""

    def __init__(self, reader: DemoReader, connection: Any, pipe: Connection) -> None:
        self.reader = reader
        self.connection = connection
        self.pipe = pipe
        self.position: bytes | str = "0-0"
        self.reads: list[tuple[int, list[bytes]]] = []  # not yet reported

    def run(self) -> None:
        """Read until Stop, then to the stream's end."""
        self._take_position()
        self.pipe.send(Ready())
        gc.disable()  # a collection would be measured as latency; the process ends with the run
        reported_at = time.perf_counter_ns()
        while True:
            self._read(BLOCK_MS)
            now = time.perf_counter_ns()
            if now - reported_at < REPORT_EVERY_NS:
                continue
            reported_at = now
            # Even when empty: a parent that is gone shows as a broken pipe.
            self.pipe.send(ConsumerProgress(self.reads))
            self.reads = []
            if self.pipe.poll() and isinstance(self.pipe.recv(), Stop):
                break
        while self._read(None):
            pass
        self.pipe.send(ConsumerProgress(self.reads))
        self.pipe.send(Ended())

    def _call(self, *command: object) -> Any:
        """Send one command and return its reply. Raises an error reply."""
        self.connection.send_command(*command)
        return self.connection.read_response()

    def _take_position(self) -> None:
        """Start after the newest entry there is."""
        newest = self._call("XREVRANGE", self.reader.stream, "+", "-", "COUNT", 1)
        self.position = newest[0][0] if newest else "0-0"
        if self.reader.group:
            self._call("XGROUP", "CREATE", self.reader.stream, self.reader.group, self.position, "MKSTREAM")

    def _read(self, block_ms: int | None) -> bool:
        """One read, blocking up to `block_ms` (None: not at all), noting when it returned. False: nothing came."""
        waiting = [] if block_ms is None else ["BLOCK", block_ms]
        options = ["COUNT", self.reader.count, *waiting]
        if self.reader.group:
            name = "XREADGROUP"
            options = ["GROUP", self.reader.group, "consumer", *options, "STREAMS", self.reader.stream, ">"]
        else:
            name = "XREAD"
            options += ["STREAMS", self.reader.stream, self.position]
        reply = self._call(name, *options)
        now = time.perf_counter_ns()
        if not reply:
            return False
        entries = reply[0][1]
        self.position = entries[-1][0]
        self.reads.append((now, [_event_id(fields) for _, fields in entries if fields is not None]))
        if self.reader.group:
            self._call("XACK", self.reader.stream, self.reader.group, *(entry_id for entry_id, _ in entries))
        return True


def _event_id(fields: list[bytes]) -> bytes:
    """The event_id among an entry's alternating names and values; empty when it has none."""
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name == b"event_id":
            return value
    return b""
