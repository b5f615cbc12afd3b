"""A producer at a steady rate on a connection of its own, and the ledger of what Postgres answered it.

Each event has a number within its aggregate in its payload. It is taken before the id is, under a lock on the aggregate
that is held until the commit: so by the number, by the id and by the commit the order is the same.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg

INSERT = (
    "INSERT INTO messaging.message_outbox (event_id, event_type, aggregate_id, payload) "
    "SELECT e, (%(types)s::text[])[1 + get_byte(uuid_send(e), 0) %% cardinality(%(types)s::text[])], "
    "a, jsonb_build_object('event', e, 'n', n) "
    "FROM (SELECT u.e, l.a, audit.next_of(l.a) AS n FROM unnest(%(events)s::uuid[]) AS u (e), "
    "LATERAL (SELECT %(prefix)s || get_byte(uuid_send(u.e), 1) %% 48) AS l (a) OFFSET 0) AS numbered"
)


@dataclass(slots=True)
class Ledger:
    """What became of each transaction, by event_id. Times are the wall clock's, as Redis's entry ids are."""

    acknowledged: dict[str, float] = field(default_factory=dict)  # when the answer to the commit came
    unknown: set[str] = field(default_factory=set)  # the connection broke before the answer
    rolled_back: set[str] = field(default_factory=set)

    def committed_since(self, when: float) -> int:
        """Events acknowledged after `when`."""
        return sum(at > when for at in self.acknowledged.values())


class Load:
    """Commits `rate` transactions a second, one to three events each; every tenth is rolled back."""

    def __init__(self, url: str, rate: float = 60.0, types: Sequence[str] = ("order.created",)) -> None:
        self.url = url
        self.types = list(types)
        self.rate = rate
        self.plain = False  # one statement a transaction, none rolled back
        self.ledger = Ledger()
        self.errors: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin. Idempotent."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.get_running_loop().create_task(self._run(), name="load")

    async def stop(self) -> None:
        """End after the transaction that runs."""
        self._stopping = True
        task, self._task = self._task, None
        if task is not None:
            await task

    async def _run(self) -> None:
        connection: psycopg.AsyncConnection[Any] | None = None
        number, due = 0, time.monotonic()
        try:
            while not self._stopping:
                due = max(due + 1 / self.rate, time.monotonic() - 0.5)  # after an outage: no burst to catch up
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if connection is None or connection.closed:
                    connection = await self._connect()
                if connection is not None:
                    number += 1
                    await self._transaction(connection, number)
        finally:
            if connection is not None:
                await connection.close()

    async def _connect(self) -> psycopg.AsyncConnection[Any] | None:
        try:
            return await psycopg.AsyncConnection.connect(
                self.url, autocommit=True, connect_timeout=2, application_name="load"
            )
        except psycopg.Error as error:
            self.errors.append(type(error).__name__)
            return None

    def _of(self, events: list[str]) -> dict[str, object]:
        return {"events": events, "types": self.types, "prefix": "a"}

    async def _transaction(self, connection: psycopg.AsyncConnection[Any], number: int) -> None:
        events = [str(uuid4()) for _ in range(1 + number % 3)]
        roll_back = number % 10 == 0 and not self.plain
        try:
            if number % 5 or self.plain:
                await connection.execute(INSERT, self._of(events))
            else:
                async with connection.transaction(force_rollback=roll_back):
                    await connection.execute(INSERT, self._of(events[:1]))
                    await connection.execute(INSERT, self._of(events[1:]))
        except psycopg.Error as error:
            self.errors.append(f"{type(error).__name__} {error.sqlstate}")
            # Refused by a server that goes on answering: certainly rolled back. Anything else may have been committed.
            (self.ledger.unknown if connection.closed else self.ledger.rolled_back).update(events)
        else:
            if roll_back:
                self.ledger.rolled_back.update(events)
            else:
                now = time.time()
                self.ledger.acknowledged.update(dict.fromkeys(events, now))
