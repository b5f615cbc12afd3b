"""A row on which Redis itself ends, each time, is found, charged and buried; no other row is charged for an outage."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from dispatcher.core.backoff import Backoff
from dispatcher.core.events import Buried, ClosedConnection, Settled
from dispatcher.embedded import EmbeddedValkey
from dispatcher.relay.stream import suspects
from tests.support.proxy import Direction, Filter, Proxy, StartProxy
from tests.support.redis import StartValkey
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes, pass_time, until

Db = psycopg.AsyncConnection[Any]
PATIENT_S = 120.0
FAST = {"tick_ms": 50, "max_attempts": 3, "backoff_base_ms": 10, "backoff_max_ms": 20}
MARKED = '{"x": "crash me"}'


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "UP_S", 0.2)


class Crashing:
    """A Valkey behind a proxy, killed when something arrives there, and started again. `ends`: how often so far."""

    def __init__(self, valkey: EmbeddedValkey, between: Proxy, guilty: Callable[[bytes], bool]) -> None:
        self.valkey, self.between, self.guilty, self.ends = valkey, between, guilty, 0
        self._ended = anyio.Event()
        between.make_filter = self._filter

    def _filter(self) -> Filter:
        def pass_on(direction: Direction, data: bytes) -> bytes:
            if direction == "to_server" and self.guilty(data) and self.valkey.running:
                self.ends += 1
                self.valkey.crash()
                self._ended.set()
            return data

        return pass_on

    async def restart(self) -> None:
        """Start it again each time."""
        while True:
            await self._ended.wait()
            self._ended = anyio.Event()
            await anyio.to_thread.run_sync(self.valkey.start)


@pytest.fixture
def crashing(own_valkey: StartValkey, proxy: StartProxy) -> Any:
    """`async with crashing(guilty) as it:`"""

    @asynccontextmanager
    async def start(guilty: Callable[[bytes], bool], **options: Any) -> AsyncIterator[Crashing]:
        valkey = own_valkey(**({"appendonly": True} | options))
        it = Crashing(valkey, await proxy(valkey.url), guilty)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.restart)
            yield it
            tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(valkey.start)

    return start


async def read_all(valkey: EmbeddedValkey) -> list[Any]:
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        return await read_stream(redis)


@pytest.mark.promise("bad-entry")
@pytest.mark.parametrize("dispatchers", [1, 2])
async def test_it_is_buried_and_all_others_go_out(
    dispatcher: StartDispatcher, db: Db, crashing: Any, dispatchers: int
) -> None:
    async with crashing(lambda data: b"crash me" in data) as it:
        await insert_events(db, 120)
        [guilty] = await insert_events(db, payload=MARKED)
        await insert_events(db, 100)
        url = it.between.via(it.valkey.url)
        async with dispatcher(redis_url=url, **FAST) as one, dispatcher(redis_url=url, **FAST) as two:
            if dispatchers == 1:
                two.service.stop("one is enough")
            await until(lambda: one.tap.all(Buried) or two.tap.all(Buried), "it is buried", PATIENT_S)
            total = 221
            await becomes(lambda: statuses(db), {"sent": total - 1, "dead": 1})
        table = await read_table(db)
        assert {row["id"]: row["attempts"] for row in table if row["attempts"]} == {guilty: 3}
        [copy] = await read_table(db, "message_dlq")
        assert copy["last_error"].startswith("ServerLost: Redis ends")
        assert "crash me" not in copy["last_error"]
        assert {event.row for tap in (one.tap, two.tap) for event in tap.all(ClosedConnection)} == {guilty}
        assert it.ends <= 12 * dispatchers
        events = [entry["event_id"] for entry in await read_all(it.valkey)]
        assert len(events) == len(set(events)) == total - 1


@pytest.mark.promise("bad-entry")
async def test_it_is_buried_though_it_is_the_only_row(dispatcher: StartDispatcher, db: Db, crashing: Any) -> None:
    async with crashing(lambda data: b"crash me" in data) as it:
        await insert_events(db, payload=MARKED)
        async with dispatcher(redis_url=it.between.via(it.valkey.url), **FAST) as running:
            await running.tap.next(Buried, timeout=PATIENT_S)
        assert await statuses(db) == {"dead": 1}


@pytest.mark.promise("redis-outage")
@pytest.mark.parametrize("rows", [1, 5])
async def test_a_redis_that_ends_on_every_write_charges_nobody(
    dispatcher: StartDispatcher, db: Db, crashing: Any, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `appendfsync always` on a full disk: it starts, answers, and ends at the first write."""
    monkeypatch.setattr(suspects, "NOT_PROVEN", Backoff(0.05, 0.1))
    full = True
    async with crashing(
        lambda data: full and ((b"XADD" in data and b"0-0" not in data) or b"\r\nSET\r\n" in data)
    ) as it:
        await insert_events(db, rows)
        async with dispatcher(redis_url=it.between.via(it.valkey.url), **FAST) as running:
            await until(lambda: it.ends >= 10, "it ended often", PATIENT_S)
            assert {row["attempts"] for row in await read_table(db)} == {0}
            full = False
            await running.tap.add_up(Settled, PATIENT_S, sent=rows)
        assert {row["attempts"] for row in await read_table(db)} == {0}
        assert await statuses(db) == {"sent": rows}
        events = [entry["event_id"] for entry in await read_all(it.valkey)]
        assert len(events) == len(set(events)) == rows


@pytest.mark.promise("redis-outage")
async def test_a_redis_that_somebody_else_ends_again_and_again_charges_nobody(
    dispatcher: StartDispatcher, db: Db, crashing: Any
) -> None:
    """Another client ends it in a loop, at moments of its own, while rows are marked and unmarked."""
    async with crashing(lambda data: b"theirs" in data) as it:
        url = it.between.via(it.valkey.url)
        sent = 0

        async def theirs() -> None:
            while it.ends < 12:
                await pass_time(0.35)
                try:
                    async with Redis.from_url(url) as other:
                        await other.set("theirs", "1")
                except (RedisError, OSError):
                    continue

        async with dispatcher(redis_url=url, **FAST), anyio.create_task_group() as tasks:
            tasks.start_soon(theirs)
            while it.ends < 12:
                await insert_events(db, 10)
                sent += 10
                await pass_time(0.02)
            await becomes(lambda: statuses(db), {"sent": sent})
        assert {row["attempts"] for row in await read_table(db)} == {0}
    # It may have ended once more when all was sent: at the end of the block it is there.
    events = [entry["event_id"] for entry in await read_all(it.valkey)]
    assert len(events) == len(set(events)) == sent
