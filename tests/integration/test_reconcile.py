"""After a lost reply: the stream is read from the floor on, however long it is and whoever else writes to it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.events import BreakerChanged, Reconciled
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.layout import Layout
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.redis import search as find_module
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.relay.stream.gate import SinkGate
from tests.support.rows import STREAM
from tests.support.tap import Tap

THEN = datetime(2025, 2, 3)


def gate_to(url: str, tap: Tap) -> SinkGate:
    redis_connection = RedisConnection(
        RedisTarget.parse(url), name="test", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
    )
    return SinkGate(
        redis_connection, Breaker(Backoff(0.01, 0.02), Random(1)), layout=Layout(STREAM), timeout_s=60.0, observe=tap
    )


@pytest.fixture
async def gate(redis_url: str, tap: Tap) -> AsyncIterator[SinkGate]:
    gate = gate_to(redis_url, tap)
    assert await gate.wait_open()
    yield gate
    gate.connection.close()


def lost(*event_ids: str, floor: str = "0-0") -> tuple[Batch, BatchOutcomes]:
    """A batch of these events, none of which was answered."""
    claimed = [
        ClaimedRow(n, THEN, event, "m", "t", "message", "a", THEN, "{}", None, 0, 0.0)
        for n, event in enumerate(event_ids)
    ]
    return Batch("c", claimed, floor, 0.0), BatchOutcomes(unknown=list(range(len(claimed))))


async def write(redis: "Redis", *entries: tuple[str, str]) -> None:
    """Add entries (id, event_id)."""
    async with redis.pipeline(transaction=False) as pipe:
        for stream_id, event in entries:
            pipe.xadd(STREAM, {"event_id": event}, id=stream_id)
        await pipe.execute()


@pytest.mark.parametrize(("page", "length"), [(10, 35), (10, 30), (1, 5), (1000, 2500)])
async def test_it_reads_to_the_end_page_by_page(gate, redis, monkeypatch, page, length):
    monkeypatch.setattr(find_module, "PAGE", page)
    await write(redis, *((f"{n}-1", f"e{n}") for n in range(1, length + 1)))
    wanted = sorted({1, page, min(page + 1, length), length})
    looked, outcomes = lost(*(f"e{n}" for n in wanted), "missing")
    assert await gate.search_for_unknown(looked, outcomes)
    assert outcomes.stream_ids == [f"{n}-1" for n in wanted]
    assert outcomes.released == [len(wanted)]


@pytest.mark.parametrize("floor", ["5-0", f"4-{2**64 - 1}"])
async def test_only_what_came_after_the_floor_is_ours(gate, redis, floor):
    """An event that was replayed is in the stream already: that is not this publication of it."""
    await write(redis, ("4-1", "before"), (floor, "at the floor"), ("5-1", "after"))
    looked, outcomes = lost("before", "at the floor", "after", floor=floor)
    assert await gate.search_for_unknown(looked, outcomes)
    assert (outcomes.sent_ids, outcomes.stream_ids, outcomes.released) == ([2], ["5-1"], [0, 1])


async def test_what_was_settled_before_stays_as_it_was(gate, redis, tap):
    await write(redis, ("1-0", "a"), ("2-0", "b"))
    looked, _ = lost("a", "b", "c")
    outcomes = BatchOutcomes(sent_ids=[0], stream_ids=["9-9"], unknown=[1, 2], sink_error="cut")
    assert await gate.search_for_unknown(looked, outcomes)
    assert (outcomes.sent_ids, outcomes.stream_ids, outcomes.released) == ([0, 1], ["9-9", "2-0"], [2])
    assert (await tap.next(Reconciled)) == Reconciled(1, 1)


async def test_entries_of_strangers_are_no_matter(gate, redis, redis_url):
    async with Redis.from_url(redis_url) as raw:
        foreign: list[dict[Any, Any]] = [
            {"something": "else"},
            {"named": "event_id"},
            {b"\xff": b"\xfe", b"event_id": b"\xff\xfe"},
            {"event_id": ""},
        ]
        for fields in foreign:
            await raw.xadd(STREAM, fields)
        ours: Any = await raw.xadd(STREAM, {"before": "event_id", "event_id": "a"})
    looked, outcomes = lost("a", "b")
    assert await gate.search_for_unknown(looked, outcomes)
    assert (outcomes.stream_ids, outcomes.released) == ([ours.decode()], [1])


async def test_rows_of_one_claim_may_be_searched_for_at_the_same_time(gate, redis):
    """Some are kept aside and others isolated, and then another Redis holds the stream."""
    await write(redis, *((f"{n}-1", f"e{n}") for n in range(1, 50)))
    one, of_one = lost("e1", "missing")
    other, of_other = lost("e2", "e3")
    async with asyncio.TaskGroup() as tasks:
        searches = [
            tasks.create_task(gate.search_for_unknown(one, of_one)),
            tasks.create_task(gate.search_for_unknown(other, of_other)),
        ]
    assert [each.result() for each in searches] == [True, True]
    assert (of_one.stream_ids, of_one.released) == (["1-1"], [1])
    assert (of_other.stream_ids, of_other.released) == (["2-1", "3-1"], [])


async def test_no_stream_means_nothing_arrived(gate):
    looked, outcomes = lost("a")
    assert await gate.search_for_unknown(looked, outcomes)
    assert (outcomes.sent_ids, outcomes.released) == ([], [0])


async def test_a_look_that_fails_leaves_the_rows_unknown_and_waits(gate, tap):
    gate.connection.close()
    looked, outcomes = lost("a")
    assert not await gate.search_for_unknown(looked, outcomes)
    assert outcomes == lost("a")[1]
    assert gate.is_shut()  # or the next look would follow at once, and the next
    assert (await tap.next(BreakerChanged)).state == "open"


async def test_where_nobody_may_look_the_rows_are_published_again(own_valkey, tap):
    server = own_valkey()
    async with Redis.from_url(server.url) as admin:
        await admin.acl_setuser("app", enabled=True, passwords="+right", keys="*", commands=["+@all", "-xrange"])
    gate = gate_to(server.url.replace("redis://", "redis://app:right@"), tap)
    assert await gate.wait_open()
    looked, outcomes = lost("a")
    assert await gate.search_for_unknown(looked, outcomes)
    assert (outcomes.unknown, outcomes.released) == ([], [0])
    gate.connection.close()


async def test_a_search_reads_no_more_bytes_at_once_than_its_pages_may_take(redis, redis_url, proxy):
    """200 entries of a megabyte: the first page is too large, and what comes after it is read a few at a time, once."""
    through = await proxy(redis_url)
    largest = 0

    def measure():
        size = 0

        def passed(direction, data):
            nonlocal size, largest
            size = size + len(data) if direction == "to_client" else 0
            largest = max(largest, size)
            return data

        return passed

    through.make_filter = measure
    text = "x" * 1_000_000
    for n in range(1, 101):
        await redis.xadd(STREAM, {"event_id": f"e{n}", "payload": text}, id=f"{n}-0")
    connection = RedisConnection(
        RedisTarget.parse(through.via(redis_url)), name="look", streams=(STREAM,), connect_timeout_s=30.0,
        on_lost=lambda why: None,
    )  # fmt: skip
    asked = 0

    async def verify(connected):
        nonlocal asked
        asked += 1
        return RedisIncarnation()

    searcher = find_module.Searcher(connection, 30.0, verify)
    search = find_module.Search("0-0", {STREAM: {f"e{n}": n for n in range(1, 101)}}, RedisIncarnation())
    assert await searcher.go_on(search, 60.0)
    assert search.found == {n: f"{n}-0" for n in range(1, 101)}
    assert asked <= 3  # connections: what was found on one is not read again on the next
    assert largest < 4 * find_module.MOST_BYTES  # with what was in the kernel's buffers when the connection was closed
    assert not connection.up


async def test_a_page_that_is_lost_is_read_again_in_a_smaller_one_from_where_it_was(redis, redis_url, proxy):
    """A link that carries so many bytes before it breaks: each time some more entries are found."""
    through = await proxy(redis_url)

    def breaks():
        left = 300_000

        def passed(direction, data):
            nonlocal left
            left -= len(data) if direction == "to_client" else 0
            if left < 0:
                raise ConnectionAbortedError
            return data

        return passed

    for n in range(1, 31):
        await redis.xadd(STREAM, {"event_id": f"e{n}", "payload": "x" * 50_000}, id=f"{n}-0")
    through.make_filter = breaks
    connection = RedisConnection(
        RedisTarget.parse(through.via(redis_url)), name="look", streams=(STREAM,), connect_timeout_s=30.0,
        on_lost=lambda why: None,
    )  # fmt: skip

    async def verify(connected):
        return RedisIncarnation()

    searcher = find_module.Searcher(connection, 30.0, verify)
    search = find_module.Search("0-0", {STREAM: {f"e{n}": n for n in range(1, 31)}}, RedisIncarnation())
    assert await searcher.go_on(search, 60.0)
    assert search.found == {n: f"{n}-0" for n in range(1, 31)}
