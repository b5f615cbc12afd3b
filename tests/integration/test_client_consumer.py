"""dispatcher.client.consumer: what a group's entries go through, with both consumers, whatever happens to them."""

import asyncio
import logging
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client.consumer import Received
from tests.support.consumers import (
    DEAD,
    GROUP,
    PATIENCE_S,
    Away,
    Running,
    abandon,
    consuming,
    dead,
    group,
    logged,
    pending,
    publish,
    rights_for,
    until_it_waits,
    until_nothing_is_pending,
)
from tests.support.proxy import StartProxy
from tests.support.readme import blocks, page, section
from tests.support.redis import StartValkey
from tests.support.rows import STREAM

pytestmark = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


@pytest.mark.parametrize("client", [{"protocol": 2}, {"protocol": 3, "decode_responses": True}])
async def test_an_event_is_handled_and_acknowledged(
    kind: str, redis: "aio.Redis", redis_url: str, client: dict[str, Any]
) -> None:
    event_id = uuid.uuid4()
    entry_id = await publish(redis, "7", event_id)
    async with consuming(kind, redis_url, group(), **client) as running:
        event = await running.next()
        assert (event.event_id, event.entry_id, event.deliveries) == (event_id, entry_id, 1)
        assert (event.event_type, event.aggregate_type, event.aggregate_id) == ("order.created", "order", "7")
        assert event.occurred_at.isoformat() == "2025-06-01T12:00:00.123456+00:00"
        assert (event.text, event.json(), event.headers) == ('{"total": 42}', {"total": 42}, None)
        assert "total" not in repr(event)
        await publish(redis, "8")
        assert (await running.next()).aggregate_id == "8"
        await running.stop()
    assert await pending(redis) == []
    assert await redis.xinfo_consumers(STREAM, GROUP) == []


@pytest.mark.promise("consumer")
async def test_what_failed_comes_again_and_holds_nobody_up(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    good_came = threading.Event()

    def behave(event: Received) -> None:
        if event.aggregate_id == "good":
            good_came.set()
        elif event.deliveries < 3 or not good_came.is_set():  # they fail until it came: it waits for neither
            raise LookupError("secret")

    bad = [await publish(redis, "bad") for _ in range(2)]
    good = await publish(redis, "good")
    async with consuming(kind, redis_url, group(retry=timedelta(milliseconds=200)), behave) as running:
        came = [await running.next()]  # one read delivers all three
        await until_nothing_is_pending(redis)
        came += await running.rest()
    tries = {entry: [event.deliveries for event in came if event.entry_id == entry] for entry in [*bad, good]}
    assert tries.pop(good) == [1]
    for deliveries in tries.values():
        assert deliveries == list(range(1, len(deliveries) + 1))
        assert len(deliveries) >= 3
    assert not await redis.exists(DEAD)


async def test_what_fails_too_often_is_put_away(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(event: Received) -> None:
        raise LookupError("secret")

    entry_id = await publish(redis, "bad")
    async with consuming(kind, redis_url, group(max_deliveries=2), behave) as running:
        assert [(await running.next()).deliveries for _ in range(2)] == [1, 2]
        [entry] = await dead(redis)
        await until_nothing_is_pending(redis)
    assert (entry["aggregate_id"], entry["payload"]) == ("bad", '{"total": 42}')
    assert (entry["dead_entry_id"], entry["dead_group"], entry["dead_deliveries"]) == (entry_id, GROUP, "2")
    assert entry["dead_reason"].startswith("LookupError at test_client_consumer.py:")
    event = f"event {entry['event_id']} (order.created)"
    assert f"entry {entry_id}, {event}, put away into {DEAD} as {entry['stream_id']}: LookupError at" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.promise("consumer")
async def test_the_entries_of_a_dead_consumer_are_taken_over(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    for name in ("first", "second", "third"):
        await publish(redis, name)
    await abandon(redis, deliveries=2)
    async with consuming(kind, redis_url, group()) as running:
        came = [await running.next() for _ in range(3)]
        await until_nothing_is_pending(redis)
    assert [(event.aggregate_id, event.deliveries) for event in came] == [("first", 3), ("second", 3), ("third", 3)]


@pytest.mark.promise("consumer")
async def test_what_kills_its_consumers_is_put_away_unread(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "killer")
    await abandon(redis, deliveries=10)
    async with consuming(kind, redis_url, group()) as running:
        [entry] = await dead(redis)
        await until_nothing_is_pending(redis)
        assert await running.rest() == []
    assert (entry["aggregate_id"], entry["dead_deliveries"]) == ("killer", "11")


@pytest.mark.promise("consumer")
@pytest.mark.parametrize("ordered", [False, True])
async def test_what_waited_behind_a_killer_is_not_put_away_unread(
    kind: str, ordered: bool, redis: "aio.Redis", redis_url: str
) -> None:
    """Redis counts a delivery for each entry of a read: they were read once, and their function was not called."""
    for name in ("first", "second"):
        await publish(redis, name)
    await abandon(redis, deliveries=1)
    await publish(redis, "killer")
    await abandon(redis, deliveries=2)  # the second time it was claimed alone
    async with consuming(kind, redis_url, group(max_deliveries=1, ordered=ordered)) as running:
        [entry] = await dead(redis)
        await until_nothing_is_pending(redis)
        came = await running.rest()
    assert [event.aggregate_id for event in came] == ["first", "second"]
    assert (entry["aggregate_id"], entry["dead_deliveries"]) == ("killer", "3")


async def test_what_another_consumer_works_on_is_left_alone(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "other's")
    await abandon(redis, idle_ms=0)
    async with consuming(kind, redis_url, group()) as running:
        await publish(redis, "ours")
        assert (await running.next()).aggregate_id == "ours"
    assert [entry["consumer"] for entry in await pending(redis)] == ["died"]


async def test_trimmed_entries_are_named_and_dropped(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("trimmed", "trimmed", "kept"):
        await publish(redis, name)
    await abandon(redis)
    await redis.xtrim(STREAM, maxlen=1, approximate=False)
    async with consuming(kind, redis_url, group()) as running:
        assert (await running.next()).aggregate_id == "kept"
        await until_nothing_is_pending(redis)
    assert "trimmed or deleted before" in caplog.text


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("what", ["trimmed, and it fails", "trimmed, and a stop", "acknowledged by hand, and it fails"])
async def test_what_is_trimmed_while_it_is_in_hand_is_named(
    kind: str, what: str, ordered: bool, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis 7 forgets such an entry when it is given back: no search finds it. One acknowledged by hand is not lost."""
    entry_ids = [await publish(redis, "ours")]
    running: Running

    def behave(event: Received) -> None:
        with sync.Redis.from_url(redis_url) as other:
            if what.startswith("trimmed"):
                other.xtrim(STREAM, maxlen=0, approximate=False)
            else:
                other.xack(STREAM, GROUP, *entry_ids)
        if what.endswith("fails"):
            raise ValueError
        running.consumer.stop()

    if what.endswith("stop"):
        entry_ids.append(await publish(redis, "waits behind it"))
    async with consuming(kind, redis_url, group(ordered=ordered), behave) as running:
        assert (await running.next()).aggregate_id == "ours"
        if what.startswith("trimmed"):
            await logged(caplog, "lost 1 entry: trimmed or deleted before")
        else:
            await logged(caplog, "failed, delivery 1 of 10")
        await until_nothing_is_pending(redis)
    assert await pending(redis) == []
    assert caplog.text.count("trimmed or deleted") == what.startswith("trimmed")


@pytest.mark.promise("consumer")
async def test_a_stop_gives_back_what_was_not_begun(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    for name in ("first", "second", "third"):
        await publish(redis, name)
    running: Running

    async with consuming(kind, redis_url, group(), lambda event: running.consumer.stop()) as running:
        assert (await running.next()).aggregate_id == "first"
        async with asyncio.timeout(PATIENCE_S):
            await running.task
        assert await running.rest() == []
    async with consuming(kind, redis_url, group()) as other:
        came = [await other.next() for _ in range(2)]
    assert [(event.aggregate_id, event.deliveries) for event in came] == [("second", 1), ("third", 1)]


@pytest.mark.promise("consumer")
async def test_an_outage_costs_no_delivery(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    away = True

    def behave(event: Received) -> None:
        if away:
            raise Away("secret")

    for name in ("first", "second"):
        await publish(redis, name)
    async with consuming(kind, redis_url, group(max_deliveries=1), behave) as running:
        waiting = [await running.next() for _ in range(3)]
        away = False
        came: list[Received] = []
        while not came or came[-1].aggregate_id == "first":
            came.append(await running.next())
        await until_nothing_is_pending(redis)
    assert {(event.aggregate_id, event.deliveries) for event in waiting} == {("first", 1)}
    assert (came[-1].aggregate_id, came[-1].deliveries) == ("second", 1)
    assert "Away" in caplog.text
    assert "secret" not in caplog.text


async def test_a_stop_in_an_outage_gives_the_event_back(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    def behave(event: Received) -> None:
        raise Away

    await publish(redis, "waits")
    async with consuming(kind, redis_url, group(), behave) as running:
        await running.next()
        await running.stop()
    async with consuming(kind, redis_url, group()) as other:
        event = await other.next()
    assert (event.aggregate_id, event.deliveries) == ("waits", 1)


async def test_a_store_keeps_an_event_from_being_done_twice(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    event_id = uuid.uuid4()
    for name, same in (("once", event_id), ("twice", event_id), ("other", None)):
        await publish(redis, name, same)
    async with consuming(kind, redis_url, group(), dedup=True) as running:
        came = [await running.next() for _ in range(2)]
        await until_nothing_is_pending(redis)
        assert await running.rest() == []
    assert [event.aggregate_id for event in came] == ["once", "other"]
    assert await redis.ttl(f"handled:{GROUP}:{event_id}") > 29 * 86_400


async def test_an_entry_that_is_not_ours_is_put_away(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    await redis.xadd(STREAM, {"event_id": "1", "payload": "secret"})
    await publish(redis, "ours")
    async with consuming(kind, redis_url, group()) as running:
        assert (await running.next()).aggregate_id == "ours"
        await until_nothing_is_pending(redis)
        [entry] = await dead(redis)
    assert (entry["payload"], entry["dead_reason"]) == ("secret", "the entry's field event_id cannot be read")


@pytest.mark.promise("consumer")
async def test_redis_being_away_is_waited_out(
    kind: str, redis: "aio.Redis", redis_url: str, proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dispatcher.client")
    through = await proxy(redis_url)
    loop = asyncio.get_running_loop()

    def behave(event: Received) -> None:
        if event.aggregate_id == "first":  # handled, but the acknowledgement cannot be sent
            if kind == "asyncio":
                lose_redis()
            else:
                asyncio.run_coroutine_threadsafe(losing_redis(), loop).result()

    def lose_redis() -> None:
        through.refuse()
        through.cut()

    async def losing_redis() -> None:
        lose_redis()

    await publish(redis, "first")
    async with consuming(kind, through.via(redis_url), group(), behave) as running:
        assert (await running.next()).aggregate_id == "first"
        await logged(caplog, "trying again")
        await publish(redis, "second")
        await through.start()
        assert (await running.next()).aggregate_id == "second"
        await until_nothing_is_pending(redis)
        assert await running.rest() == []


async def test_a_failover_under_a_read_is_waited_out(
    kind: str, own_valkey: StartValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """A primary that becomes a replica ends reads that wait; one that misses its replicas refuses a group's reads."""
    caplog.set_level(logging.WARNING, "dispatcher.client")
    valkey = own_valkey()
    async with aio.Redis.from_url(valkey.url, decode_responses=True) as redis:
        await redis.config_set("min-replicas-to-write", 1)
        async with consuming(kind, valkey.url, group(block=timedelta(seconds=4))) as running:
            await logged(caplog, "NOREPLICAS")
            await redis.config_set("min-replicas-to-write", 0)
            while "UNBLOCKED" not in caplog.text:  # a read that had just ended is refused instead
                caplog.clear()
                await until_it_waits(redis)
                await redis.replicaof("127.0.0.1", 1)
                await logged(caplog, "trying again")
                await redis.replicaof("NO", "ONE")
            await publish(redis, "after the failover")
            assert (await running.next()).aggregate_id == "after the failover"


async def test_a_group_that_is_gone_is_made_again(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    await publish(redis, "before")
    async with consuming(kind, redis_url, group()) as running:
        assert (await running.next()).aggregate_id == "before"
        await redis.delete(STREAM)
        await publish(redis, "after")
        assert (await running.next()).aggregate_id == "after"


async def test_a_wrong_password_is_an_error(kind: str, redis_url: str) -> None:
    with pytest.raises(sync.AuthenticationError):
        async with consuming(kind, redis_url, group(), username="nobody", password="wrong") as running:
            await asyncio.wait([running.task], timeout=PATIENCE_S)


async def test_the_acl_of_the_documentation_is_enough(kind: str, own_valkey: StartValkey) -> None:
    def behave(event: Received) -> None:
        if event.aggregate_id == "bad":
            raise LookupError

    server = own_valkey()
    text = page("runbook/consumers.md")
    line, *_ = blocks("Rights of a consumer", "", text)
    for_store = [f"(~handled:{GROUP}:*", "+exists", "+set)"]
    assert " ".join(for_store) in section("Rights of a consumer", text)
    async with aio.Redis.from_url(server.url, decode_responses=True) as redis:
        version = (await redis.info("server"))["redis_version"]
        words = rights_for(version, " ".join([line, *for_store]), text)
        await redis.execute_command(*words)  # type: ignore[no-untyped-call]
        await publish(redis, "abandoned")
        await abandon(redis)
        for name in ("good", "bad"):
            await publish(redis, name)
        url = server.url.replace("redis://", "redis://billing:secret@")
        async with consuming(kind, url, group(max_deliveries=2), behave, dedup=True) as running:
            came = [(await running.next()).aggregate_id for _ in range(4)]
            await dead(redis)
            await until_nothing_is_pending(redis)
            await running.stop()
        assert sorted(came) == ["abandoned", "bad", "bad", "good"]
        denied = {entry["object"] for entry in await redis.acl_log() if entry["username"] == "billing"}
        assert denied == ({"client"} if version < "7" else set())


async def test_a_client_that_gives_up_before_redis_answers_is_an_error(kind: str, redis_url: str) -> None:
    with pytest.raises(ValueError, match="lower block, or raise socket_timeout"):
        async with consuming(kind, redis_url, group(block=timedelta(seconds=2)), socket_timeout=1):
            pass
