"""A batch becomes a pipeline: each row its own entry as the contract says, each entry its own reply."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import anyio
import pytest
from redis.asyncio import Redis

from dispatcher.core.decide import NoReply, NotApplied, Refused, Reply, Unpublishable
from dispatcher.core.entry import EntryFormat
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.publish import replies_of, send
from tests.support.rows import STREAM, insert_events, read_stream, read_table
from tests.support.waiting import becomes

FORMAT = EntryFormat(STREAM, 1_000_000, 2 * 1024 * 1024)
THEN = datetime(2025, 2, 3, 4, 5, 6)


def broker_of(url: str) -> RedisConnection:
    target = RedisTarget.parse(url)
    return RedisConnection(target, name="test", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None)


@pytest.fixture
async def redis_connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    redis_connection = broker_of(redis_url)
    await redis_connection.connect()
    yield redis_connection
    redis_connection.close()


def row(number: int, payload: str = "{}", headers: str | None = None) -> ClaimedRow:
    ids = str(uuid4()), str(uuid4())
    return ClaimedRow(number, THEN, *ids, "order.created", "message", f"a{number}", THEN, payload, headers, 0, 0.0)


def batch(*rows: ClaimedRow) -> Batch:
    return Batch(new_claim_id(), list(rows), "0-0", 0.0)


async def publish(
    redis_connection: RedisConnection, *rows: ClaimedRow, entry: EntryFormat = FORMAT, deadline_s: float = 30.0
):
    return await replies_of(send(redis_connection, entry, batch(*rows), deadline_s))


async def test_a_committed_row_is_in_the_stream_as_the_contract_says(database_url, db, redis_connection, redis):
    await insert_events(db, headers='{"traceparent": "00"}', payload='{"b": [1.50, "é"], "a": null}')
    await insert_events(db)
    session = await connect(PostgresTarget(database_url, "test"), "lane")
    claimed = await claim(session, claim_id=new_claim_id(), dispatcher=1, limit=10)
    await session.close()
    replies = await replies_of(send(redis_connection, FORMAT, claimed, 30.0))
    rows, entries = await read_table(db), await read_stream(redis)
    for stored, entry, reply in zip(rows, entries, replies, strict=True):
        assert isinstance(reply, bytes)
        expected = {
            "stream_id": reply.decode(),
            "event_id": str(stored["event_id"]),
            "message_id": str(stored["message_id"]),
            "event_type": "order.created",
            "aggregate_type": "message",
            "aggregate_id": "a1",
            "occurred_at": stored["occurred_at"].astimezone(UTC).replace(tzinfo=None).isoformat("T", "microseconds")
            + "Z",
        }
        assert {name: entry[name] for name in expected} == expected
        assert json.loads(entry["payload"]) == stored["payload"]
    assert entries[0]["headers"] == '{"traceparent": "00"}'
    assert "1.50" in entries[0]["payload"]  # the text of Postgres, not what Python would make of it
    assert "headers" not in entries[1]


async def test_the_stream_is_trimmed_about_there(redis_connection, redis):
    entry = EntryFormat(STREAM, 200, 1000)
    for _ in range(10):
        assert len(await publish(redis_connection, *map(row, range(100)), entry=entry)) == 100
    assert 200 <= await redis.xlen(STREAM) < 500


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "a\x00b",
        "[" * 5000 + "]" * 5000,
        '"' + "x" * 1024 * 1024 + '"',
        "Ünïcödé 漢字 🎉 \u202e\ufeff\ufffd",
        "*3\r\n$4\r\nXADD\r\n$1\r\nx\r\n+OK\r\n-ERR no\r\n",
        "\x7f\x80\xff\u0100\U0010ffff",
    ],
    ids=["empty", "NUL", "deep", "1 MiB", "not ASCII", "like the protocol", "like binary"],
)
async def test_any_text_arrives_as_it_was(redis_connection, redis, payload):
    before, given, after = row(1), row(2, payload, payload), row(3)
    await publish(redis_connection, before, given, after)
    entries = await read_stream(redis)
    assert (entries[1]["payload"], entries[1]["headers"]) == (payload, payload)
    assert [entry["event_id"] for entry in entries] == [before.event_id, given.event_id, after.event_id]


async def test_a_row_too_large_is_left_out_and_answered_in_its_place(redis_connection, redis):
    small = EntryFormat(STREAM, 1000, 10)
    rows = [row(1, "x" * 11), row(2), row(3), row(4, "é" * 6), row(5)]
    replies = await publish(redis_connection, *rows, entry=small)
    assert [type(reply) for reply in replies] == [Unpublishable, bytes, bytes, Unpublishable, bytes]
    assert [entry["aggregate_id"] for entry in await read_stream(redis)] == ["a2", "a3", "a5"]
    assert await publish(redis_connection, rows[0], entry=small) == [
        Unpublishable("payload is 11 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 10")
    ]


async def test_a_key_that_is_no_stream_refuses_every_row(redis_connection, redis):
    await redis.set(STREAM, "x")
    replies = await publish(redis_connection, row(1), row(2))
    assert [isinstance(reply, Refused) and reply.text.split()[0] for reply in replies] == ["WRONGTYPE"] * 2


async def test_where_memory_ends_each_row_has_the_answer_that_is_true_of_it(own_valkey):
    """Errors are not always a suffix: some entries may succeed after the first that was refused."""
    server = own_valkey(options={"maxmemory": "8mb", "maxmemory-policy": "noeviction"})
    redis_connection = broker_of(server.url)
    await redis_connection.connect()
    rows = [row(number, "x" * 20_000) for number in range(1000)]
    replies: list[Reply] = []
    for start in range(0, len(rows), 100):
        replies += await publish(redis_connection, *rows[start : start + 100])
    redis_connection.close()
    async with Redis.from_url(server.url, decode_responses=True) as client:
        there = {entry["event_id"]: entry["stream_id"].encode() for entry in await read_stream(client)}
    refused = [reply for reply in replies if isinstance(reply, Refused)]
    assert 0 < len(refused) < len(rows)
    assert {reply.text.split()[0] for reply in refused} == {"OOM"}
    assert there == {
        each.event_id: reply for each, reply in zip(rows, replies, strict=True) if isinstance(reply, bytes)
    }


async def test_where_memory_ends_rows_of_one_aggregate_are_taken_as_a_whole_or_not_at_all(own_valkey):
    """Without MULTI some are taken behind one that was refused: see the test above."""
    server = own_valkey(options={"maxmemory": "8mb", "maxmemory-policy": "noeviction"})
    redis_connection = broker_of(server.url)
    await redis_connection.connect()
    taken = []
    for start in range(0, 1000, 100):
        rows = [row(number, "x" * 20_000) for number in range(start, start + 100)]
        one = batch(*rows)._replace(aggregate_keys={each.id: 7 for each in rows})
        replies = await replies_of(send(redis_connection, FORMAT, one, 30.0))
        kinds = {type(reply) for reply in replies}
        assert len(kinds) == 1, "some of the batch are in the stream, and some are not"
        taken.append(kinds == {bytes})
        assert taken[-1] or all(isinstance(each, Refused) and each.text.startswith("OOM") for each in replies)
    redis_connection.close()
    assert taken.count(True) in range(1, 10)


async def test_rows_that_are_alone_of_their_aggregate_go_before_the_others(redis_connection, redis):
    """Each is answered in its place, and only the others are within MULTI."""
    rows = [row(1), row(2), row(3), row(4)]
    mixed = batch(*rows)._replace(aggregate_keys={1: 5, 2: 6, 3: 5, 4: 7}, after_dead={2: "the dead one"})
    replies = await replies_of(send(redis_connection, FORMAT, mixed, 30.0))
    entries = await read_stream(redis)
    assert [entry["event_id"] for entry in entries] == [rows[at].event_id for at in (1, 3, 0, 2)]
    assert [replies[at] for at in (1, 3, 0, 2)] == [entry["stream_id"].encode() for entry in entries]
    assert [entry.get("after_dead") for entry in entries] == ["the dead one", None, None, None]


async def test_a_lost_reply_is_unknown_and_a_connection_that_is_gone_is_not(redis_url, redis, proxy):
    through = await proxy(redis_url)
    redis_connection = broker_of(through.via(redis_url))
    await redis_connection.connect()
    through.drop_replies()
    assert await publish(redis_connection, row(1), row(2, "x" * 3_000_000), deadline_s=0.2) == [
        NoReply("no reply within 0.2 s"),
        Unpublishable("payload is 3000000 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 2097152"),
    ]
    await becomes(lambda: redis.xlen(STREAM), 1, "the number of entries")
    assert await publish(redis_connection, row(3)) == [NotApplied("redis is not connected")]


async def test_batches_sent_in_turn_reach_the_stream_in_that_order(redis_connection, redis):
    pending = [
        send(redis_connection, FORMAT, batch(*(row(turn * 100 + n) for n in range(50))), 30.0)
        for turn in range(10)
    ]  # fmt: skip
    for each in reversed(pending):
        assert all(isinstance(reply, bytes) for reply in await replies_of(each))
    order = [int(entry["aggregate_id"][1:]) for entry in await read_stream(redis)]
    assert order == sorted(order)


async def test_a_cancelled_wait_does_not_make_a_reply_look_lost(redis_connection):
    pending = send(redis_connection, FORMAT, batch(row(1)), 30.0)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await replies_of(pending)
    assert scope.cancelled_caught
    [reply] = await replies_of(pending)
    assert isinstance(reply, bytes)


async def test_an_answer_that_xadd_never_gives_is_a_refusal(redis_connection, redis_url):
    odd = [("PING",), ("LPUSH", "list", "x"), ("LRANGE", "list", "0", "1")]
    pending = send(redis_connection, FORMAT, batch(), 30.0)
    replies = await replies_of(pending._replace(replies=redis_connection.send(odd, 30.0)))
    what = ("PONG", "of type int", "of type list")
    assert replies == [Refused(f"UNEXPECTED reply {each} to XADD") for each in what]
