"""The gate holds claims back while Redis fails, lets one row try, opens again, and finds what was lost on the way."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from random import Random
from uuid import uuid4

import anyio
import pytest
from redis.asyncio import Redis

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.decide import RetryPolicy, decide_batch
from dispatcher.core.entry import EntryFormat
from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import BreakerChanged, Reconciled
from dispatcher.core.layout import Layout
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.stages.publish import replies_of, send
from tests.support.rows import STREAM, read_stream
from tests.support.tap import Tap

MakeGate = Callable[..., SinkGate]
POLICY = RetryPolicy(10, Backoff(0.25, 60.0))
ENTRY = EntryFormat(STREAM, 1_000_000, 100_000)
THEN = datetime(2025, 2, 3)
QUICK = Backoff(0.01, 0.02)


@pytest.fixture
async def make_gate(tap: Tap) -> AsyncIterator[MakeGate]:
    async with AsyncExitStack() as stack:

        def make(url: str, backoff: Backoff | None = None) -> SinkGate:
            target = RedisTarget.parse(url)
            redis_connection = RedisConnection(
                target, name="test", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
            )
            stack.callback(redis_connection.close)
            breaker = Breaker(backoff or QUICK, Random(1))
            return SinkGate(redis_connection, breaker, layout=Layout(STREAM), timeout_s=60.0, observe=tap)

        yield make


def rows(count: int, payload: str = "{}") -> list[ClaimedRow]:
    return [
        ClaimedRow(n, THEN, str(uuid4()), "m", "t", "message", "a", THEN, payload, None, 0, 0.0) for n in range(count)
    ]


def batch(claimed: list[ClaimedRow], floor: str = "0-0") -> Batch:
    return Batch("c", claimed, floor, 0.0)


async def publish(gate: SinkGate, claimed: list[ClaimedRow], deadline_s: float = 30.0) -> BatchOutcomes:
    """Publish them and let the gate learn from the verdict."""
    replies = await replies_of(send(gate.connection, ENTRY, batch(claimed), deadline_s))
    outcomes = decide_batch(claimed, replies, POLICY, Random(1))
    gate.note_outcomes(outcomes)
    return outcomes


async def opened(gate: SinkGate) -> None:
    """Wait until something may be sent."""
    with anyio.fail_after(60):
        while not await gate.wait_open():
            pass


async def test_it_connects_and_is_open_while_all_goes_well(make_gate, redis_url, tap):
    gate = make_gate(redis_url)
    assert await gate.wait_open()
    assert len((await publish(gate, rows(3))).sent_ids) == 3
    assert not gate.is_shut()
    assert not gate.begin_trial()
    assert tap.seen == []
    outcomes = await publish(gate, rows(2))
    assert gate.connection.floor == outcomes.stream_ids[-1]


@pytest.mark.parametrize("trouble", ["OOM", "READONLY"])
async def test_a_failing_sink_shuts_it_and_a_trial_of_one_row_opens_it(make_gate, own_valkey, tap, trouble):
    server = own_valkey()
    gate = make_gate(server.url, Backoff(3600, 3600))
    assert await gate.wait_open()
    begin, end = {
        "OOM": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        "READONLY": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    }[trouble]
    await gate.connection.send([begin], 30.0)
    for _ in range(3):  # batches of one outage
        outcomes = await publish(gate, rows(4))
        assert outcomes.released == [0, 1, 2, 3]
    assert gate.is_shut()
    with anyio.move_on_after(0.02) as held:
        await gate.wait_open()
    assert held.cancelled_caught
    gate._breaker.backoff, gate._breaker._until = QUICK, 0.0  # the hour is over
    for _ in range(5):
        await opened(gate)
        assert gate.begin_trial()
        assert (await publish(gate, rows(1))).released == [0]
    async with Redis.from_url(server.url) as admin:
        await admin.execute_command(*end)  # type: ignore[no-untyped-call]
    await opened(gate)
    assert gate.begin_trial()
    assert (await publish(gate, rows(1))).sent_ids == [0]
    assert not gate.begin_trial()
    assert await gate.wait_open()
    changes = tap.all(BreakerChanged)
    assert [(change.state, (change.reason or "")[:10].strip()) for change in changes] == [
        ("open", f"redis: {trouble}"[:10].strip()),
        ("closed", ""),
    ]


@pytest.mark.parametrize("says", ["READONLY", "MASTERDOWN", "LOADING", "MOVED"])
async def test_a_server_that_says_it_is_the_wrong_one_is_left(make_gate, own_valkey, proxy, says):
    """A failover behind one address: the old primary lives on as a replica, and keeps its connections."""
    old, new = own_valkey(), own_valkey()
    front = await proxy(old.url)
    gate = make_gate(front.via(old.url))
    assert await gate.wait_open()
    await gate.connection.send([("REPLICAOF", "127.0.0.1", "1")], 30.0)
    if says != "READONLY":
        front.make_filter = lambda: lambda direction, data: data.replace(b"-READONLY", f"-{says}".encode())
        gate.connection.close()  # a filter is for new connections
        await opened(gate)
    front.upstream = ("127.0.0.1", new.port)
    front.make_filter = None
    replies = await replies_of(send(gate.connection, ENTRY, batch(rows(4)), 30.0))
    assert [str(getattr(reply, "text", reply)).partition(" ")[0] for reply in replies] == [says] * 4
    gate.note_outcomes(decide_batch(rows(4), replies, POLICY, Random(1)))
    assert not gate.connection.up
    await opened(gate)
    assert gate.begin_trial()  # a connection alone proves nothing
    assert (await publish(gate, rows(1))).sent_ids == [0]
    assert not gate.is_shut()


async def test_a_row_that_never_reached_the_sink_proves_nothing(make_gate, own_valkey):
    gate = make_gate(own_valkey(options={"maxmemory": "1"}).url)
    assert await gate.wait_open()
    await publish(gate, rows(4))
    await opened(gate)
    assert gate.begin_trial()
    outcomes = await publish(gate, rows(1, "x" * 200_000))
    assert len(outcomes.dead) == 1
    assert gate.begin_trial()


async def test_redis_killed_and_started_again(make_gate, own_valkey, tap):
    server = own_valkey()
    gate = make_gate(server.url)
    assert await gate.wait_open()
    await gate.connection.send([("CLIENT", "PAUSE", "60000", "WRITE")], 30.0)
    pending = send(gate.connection, ENTRY, batch(claimed := rows(2)), 30.0)
    server.crash()
    gate.note_outcomes(outcomes := decide_batch(claimed, await replies_of(pending), POLICY, Random(1)))
    assert outcomes.unknown == [0, 1]
    assert (await tap.next(BreakerChanged)).state == "open"
    for _ in range(3):
        assert not await gate.wait_open()
    server.start()
    await opened(gate)
    assert await tap.next(BreakerChanged) == BreakerChanged("closed", None)  # being there is the proof
    assert not gate.begin_trial()
    assert len((await publish(gate, rows(2))).sent_ids) == 2


async def test_what_a_person_must_mend_is_raised_at_first_and_waited_out_later(make_gate, redis_url, redis, tap):
    await redis.set(STREAM, "x")
    with pytest.raises(Misconfigured):
        await make_gate(redis_url).wait_open()
    await redis.delete(STREAM)
    gate = make_gate(redis_url)
    assert await gate.wait_open()
    gate.connection.close()
    await redis.set(STREAM, "x")
    assert not await gate.wait_open()
    assert "is not a stream" in str((await tap.next(BreakerChanged)).reason)
    await redis.delete(STREAM)
    await opened(gate)


async def test_a_stop_ends_the_wait(make_gate, own_valkey):
    gate = make_gate(own_valkey(options={"maxmemory": "1"}).url, Backoff(3600, 3600))
    assert await gate.wait_open()
    await publish(gate, rows(1))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.wait_open)
            await anyio.wait_all_tasks_blocked()
            gate.stop()


async def test_lanes_that_ask_at_once_share_one_connection(make_gate, redis_url, redis):
    gate = make_gate(redis_url)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(gate.wait_open)
    assert [client["name"] for client in await redis.client_list()].count("dispatcher-test") == 1


async def test_entries_whose_reply_was_lost_are_found_and_the_rest_goes_back(make_gate, redis_url, redis, proxy, tap):
    through = await proxy(redis_url)
    gate = make_gate(through.via(redis_url))
    assert await gate.wait_open()
    claimed = rows(5)
    through.drop_replies()
    applied = await publish(gate, claimed[:3], 0.1)
    await through.restore()
    await opened(gate)
    through.stall()
    held = await publish(gate, claimed[3:], 0.1)
    await through.restore()
    await opened(gate)
    outcomes = BatchOutcomes(unknown=applied.unknown + held.unknown)
    assert await gate.search_for_unknown(batch(claimed), outcomes)
    entries = {entry["event_id"]: entry["stream_id"] for entry in await read_stream(redis)}
    found = [each for each in claimed if each.event_id in entries]
    assert {0, 1, 2} <= {each.id for each in found}
    assert outcomes.sent_ids == [each.id for each in found]
    assert outcomes.stream_ids == [entries[each.event_id] for each in found]
    assert outcomes.released == [each.id for each in claimed if each not in found]
    assert outcomes.unknown == []
    assert await tap.next(Reconciled) == Reconciled(len(found), 5 - len(found))
