"""Events for somebody who looks: a thread that commits them and one that reads them, through any outage.

Not a measurement: `producer.py` and `consumer.py` are. These go on when a server is away, and count.
"""

import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import redis

from dispatcher.demo.samples import SampleRow, samples

AGAIN_S = 0.3  # after an error
BLOCK_MS = 200
TOO_LARGE = 40_000  # bytes and more: above the limit that the demo sets
DIE_AT_ONCE = 20  # events of one press of the key

INSERT = """INSERT INTO messaging.message_outbox (event_type, aggregate_type, aggregate_id, payload)
    VALUES (%s, %s, %s, %s)"""


class DemoProducer(threading.Thread):
    """Commits `rate` events a second, each on its own; `die(n)` adds some that are too large to be published."""

    def __init__(self, database_url: str, rate: float) -> None:
        super().__init__(name="demo producer", daemon=True)
        self.committed = 0  # these two written by this thread only
        self._died = 0
        self._to_die = 0  # written by whoever has the keys only: a press during an INSERT must not be counted by it
        self._url = database_url
        self._rate = rate
        self._rng = Random(1)  # noqa: S311
        self._samples: Iterator[SampleRow] = samples(self._rng, ("pending",))
        self._over = threading.Event()

    def die(self, events: int = DIE_AT_ONCE) -> None:
        self._to_die += events

    def stop(self) -> None:
        self._over.set()
        self.join(5.0)

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=5) as connection:
                    self._commit(connection)
            except psycopg.Error:
                self._over.wait(AGAIN_S)

    def _commit(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)  # what could not be committed is not made up for
            one = next(self._samples)
            payload = one.payload
            too_large = self._died < self._to_die
            if too_large:
                payload = f'"{"x" * self._rng.randint(TOO_LARGE, 2 * TOO_LARGE)}"'
            connection.execute(INSERT, [one.event_type, one.aggregate_type, one.aggregate_id, payload])
            self._died += too_large
            self.committed += 1


class DemoConsumer(threading.Thread):
    """Reads the stream as a member of a group, and acknowledges. `reading` may be switched off and on."""

    def __init__(self, redis_url: str, stream: str, group: str) -> None:
        super().__init__(name="demo consumer", daemon=True)
        self.received = 0  # written by this thread only
        self.reading = True  # written by whoever has the keys
        self._url = redis_url
        self._stream = stream
        self._group = group
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()
        self.join(5.0)

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with redis.Redis.from_url(self._url, socket_timeout=5, socket_connect_timeout=5) as client:
                    self._make_group(client)
                    self._read(client)
            except (redis.RedisError, OSError):
                self._over.wait(AGAIN_S)

    def _make_group(self, client: "redis.Redis") -> None:
        try:
            client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _read(self, client: "redis.Redis") -> None:
        while not self._over.is_set():
            if not self.reading:
                self._over.wait(AGAIN_S)
                continue
            found: Any = client.xreadgroup(self._group, "demo", {self._stream: ">"}, count=500, block=BLOCK_MS)
            for _, entries in found or []:
                client.xack(self._stream, self._group, *(entry_id for entry_id, _ in entries))
                self.received += len(entries)
