"""Consumers that keep the order of each aggregate: who reads which shard, and what another may not do meanwhile."""

import ast
import asyncio
import os
import sys
import threading
from collections import defaultdict
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client import ordered_reader, scripts
from dispatcher.client.consumer import AsyncConsumer, Consumer, Received
from dispatcher.client.shard_leases import lease_of
from tests.support.consumers import (
    DEAD,
    GROUP,
    KEYS,
    PATIENCE_S,
    SHARDS,
    Away,
    Running,
    abandon,
    both_kinds,
    consuming,
    dead,
    group,
    logged,
    nothing_is_pending,
    pending,
    publish,
    rights_for,
    until_nothing_is_pending,
)
from tests.support.readme import blocks, code, page
from tests.support.rows import STREAM
from tests.support.waiting import becomes, until


async def holders(client: Any, keys: list[str] = KEYS) -> list[str]:
    """Which consumer holds each lease; "": nobody."""
    return [(await client.hget(lease_of(key, GROUP), "holder") or "").rpartition(".")[0] for key in keys]


async def shared(client: Any, *among: Running) -> bool:
    """Whether these, and no others, hold equally many shards."""
    held = await holders(client)
    counts = [held.count(each.name) for each in among]
    return sum(counts) == SHARDS and max(counts) - min(counts) <= 1


def of_aggregates(came: list[Received]) -> dict[str, list[str]]:
    """The entries of each aggregate, as they came."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in came:
        found[event.aggregate_id].append(event.entry_id)
    return found


@both_kinds
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_all_is_read_and_each_aggregate_in_order(
    kind: str, concurrency: int, where: tuple[str, str, Any]
) -> None:
    url, pool, client = where
    published = defaultdict(list)
    for number in range(400):
        name = f"a{number % 20}"
        published[name].append(await publish(client, name, key=KEYS[number % 20 % SHARDS]))
    settings = group(shards=SHARDS, ordered=True)
    async with consuming(kind, url, settings, pool=pool, concurrency=concurrency) as running:
        came = [await running.next() for _ in range(400)]
        await nothing_is_pending(client)
        await publish(client, "late", key=KEYS[3])
        late = await running.next()
        await nothing_is_pending(client)
        await running.stop()
    assert of_aggregates(came) == published
    assert late.fence > 0
    assert {event.deliveries for event in came} == {1}
    assert await holders(client) == [""] * SHARDS
    assert [await client.xinfo_consumers(key, GROUP) for key in KEYS] == [[]] * SHARDS


@both_kinds
async def test_what_failed_holds_its_aggregate_and_nothing_else(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    def behave(event: Received) -> None:
        if event.entry_id == first and event.deliveries < 3:
            raise LookupError("secret")

    first, second, other, third = [await publish(redis, name) for name in ("a", "a", "b", "a")]
    async with consuming(kind, redis_url, group(ordered=True, retry=timedelta(milliseconds=100)), behave) as running:
        came = [await running.next() for _ in range(6)]
        await until_nothing_is_pending(redis)
    assert [(event.entry_id, event.deliveries) for event in came] == [
        (first, 1),
        (other, 1),
        (first, 2),
        (first, 3),
        (second, 1),
        (third, 1),
    ]
    assert not await redis.exists(DEAD)


@both_kinds
async def test_after_a_dead_event_its_aggregate_goes_on(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    def behave(event: Received) -> None:
        if event.entry_id == first:
            raise LookupError

    first, second = [await publish(redis, "a") for _ in range(2)]
    async with consuming(kind, redis_url, group(ordered=True, max_deliveries=2), behave) as running:
        came = [await running.next() for _ in range(3)]
        await until_nothing_is_pending(redis)
    assert [event.entry_id for event in came] == [first, first, second]
    [entry] = await dead(redis)
    assert (entry["dead_entry_id"], entry["dead_deliveries"]) == (first, "2")


@both_kinds
async def test_what_is_away_costs_no_delivery_and_holds_the_order(
    kind: str, redis: "aio.Redis", redis_url: str
) -> None:
    away = True

    def behave(event: Received) -> None:
        if away:
            raise Away

    first, second = [await publish(redis, "a") for _ in range(2)]
    async with consuming(kind, redis_url, group(ordered=True, max_deliveries=1), behave) as running:
        for _ in range(7):  # it waits in place, and then lets others by
            assert (await running.next()).entry_id == first
        away = False
        await until_nothing_is_pending(redis)
        rest = [event.entry_id for event in await running.rest()]
    assert rest[-1] == second
    assert set(rest[:-1]) <= {first}
    assert not await redis.exists(DEAD)


@both_kinds
async def test_what_others_left_comes_first_and_in_order(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    left = [await publish(client, name, key=KEYS[2]) for name in ("a", "b", "a")]
    await abandon(client, key=KEYS[2], deliveries=3)
    new = [await publish(client, name, key=KEYS[2]) for name in ("a", "b")]
    async with consuming(kind, url, group(shards=SHARDS, ordered=True), pool=pool) as running:
        came = [await running.next() for _ in range(5)]
        await nothing_is_pending(client)
    assert of_aggregates(came) == {"a": [left[0], left[2], new[0]], "b": [left[1], new[1]]}
    assert [event.deliveries for event in came] == [4, 4, 4, 1, 1]


@both_kinds
async def test_more_than_one_page_of_pending_entries(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    left = [await publish(redis, str(number % 7)) for number in range(2 * ordered_reader.PAGE + 5)]
    await abandon(redis)
    left.append(await publish(redis, "0"))
    async with consuming(kind, redis_url, group(ordered=True), concurrency=4) as running:
        came = of_aggregates([await running.next() for _ in left])
        await until_nothing_is_pending(redis)
    assert {name: sorted(entries, key=left.index) for name, entries in came.items()} == came


@both_kinds
async def test_a_stop_gives_back_what_was_not_begun(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    ids = [await publish(client, name, key=KEYS[1]) for name in ("a", "a", "b", "a")]
    running: Running
    settings = partial(group, shards=SHARDS, ordered=True)
    async with consuming(kind, url, settings(), lambda _: running.consumer.stop(), pool=pool) as running:
        assert (await running.next()).entry_id == ids[0]
        async with asyncio.timeout(PATIENCE_S):
            await running.task
        assert await running.rest() == []
    async with consuming(kind, url, settings(), pool=pool) as other:
        came = [await other.next() for _ in range(3)]
        await nothing_is_pending(client)
    assert of_aggregates(came) == {"a": [ids[1], ids[3]], "b": [ids[2]]}
    assert {event.deliveries for event in came} == {1}


@both_kinds
async def test_consumers_share_the_shards_with_few_moves(kind: str, where: tuple[str, str, Any]) -> None:
    async def tokens() -> list[str]:
        return [await client.hget(lease_of(key, GROUP), "token") for key in KEYS]

    def moved(before: list[str], after: list[str]) -> int:
        return sum(one != other for one, other in zip(before, after, strict=True))

    url, pool, client = where
    settings = partial(group, shards=SHARDS, ordered=True)
    async with consuming(kind, url, settings(), pool=pool) as one, consuming(kind, url, settings(), pool=pool) as two:
        await until(lambda: shared(client, one, two), "two share them", PATIENCE_S)
        before = await tokens()
        async with consuming(kind, url, settings(), pool=pool) as three:
            await until(lambda: shared(client, one, two, three), "three share them", PATIENCE_S)
            assert moved(before, with_three := await tokens()) == 2
            await one.stop()
            await until(lambda: shared(client, two, three), "the others share them", PATIENCE_S)
            assert moved(with_three, await tokens()) <= 3
            for key in KEYS:
                await publish(client, "a", key=key)
            came = [*[await two.next() for _ in range(4)], *[await three.next() for _ in range(4)]]
            await nothing_is_pending(client)
    assert {event.stream for event in came} == set(KEYS)


@both_kinds
async def test_more_consumers_than_shards(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    async with consuming(kind, redis_url, group(ordered=True)) as one:
        await until(lambda: is_held(redis, one), "it is read", PATIENCE_S)
        async with consuming(kind, redis_url, group(ordered=True)) as two:
            await publish(redis, "a")
            assert (await one.next()).aggregate_id == "a"
            await one.stop()
            await publish(redis, "b")
            assert (await two.next()).aggregate_id == "b"


async def is_held(client: Any, by: Running, key: str = STREAM) -> bool:
    return await holders(client, [key]) == [by.name]


@both_kinds
async def test_the_shards_of_a_dead_consumer_go_to_others(kind: str, where: tuple[str, str, Any]) -> None:
    """It left leases, its name among the consumers, and entries, of which one is half done."""
    url, pool, client = where
    ids = [await publish(client, name, key=KEYS[0]) for name in ("a", "a", "b")]
    await abandon(client, key=KEYS[0], idle_ms=0)
    for key in KEYS:
        died = {"holder": "died", "token": 7, "until": 2_000_000_000_000}
        await client.hset(lease_of(key, GROUP), mapping=died | {"c:died": 2_000_000_000_000})
    async with consuming(kind, url, group(shards=SHARDS, ordered=True), pool=pool) as running:
        await until(lambda: is_known(client, running), "it waits", PATIENCE_S)
        assert await running.rest() == []
        for key in KEYS:
            await client.hset(lease_of(key, GROUP), mapping={"until": 1, "c:died": 1})  # its time is over
        came = [await running.next() for _ in ids]
        await nothing_is_pending(client)
        await becomes(lambda: holders(client), [running.name] * SHARDS, "who reads", PATIENCE_S)
    assert of_aggregates(came) == {"a": ids[:2], "b": ids[2:]}
    assert came[0].fence > 7


async def is_known(client: Any, running: Running, key: str = KEYS[0]) -> bool:
    return any(name.startswith(f"c:{running.name}.") for name in await client.hkeys(lease_of(key, GROUP)))


@both_kinds
async def test_a_handler_that_never_ends_loses_its_shard(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    """All that wait behind it go to another consumer, also those of other shards: it has no thread left for them."""
    ends = threading.Event()

    def behave(event: Received) -> None:
        if event.aggregate_id == "stuck" and event.deliveries == 1:
            ends.wait(PATIENCE_S)

    async def work(event: Received) -> None:
        if event.aggregate_id == "stuck" and event.deliveries == 1:
            await asyncio.to_thread(ends.wait, PATIENCE_S)

    settings = partial(group, shards=2, ordered=True, claim_idle=timedelta(seconds=1))
    keys = [f"{STREAM}:{{{shard}}}" for shard in range(2)]
    try:
        async with consuming(kind, redis_url, settings(), behave) as slow:
            if kind == "asyncio":
                slow.behave_async(work)
            await until(lambda: is_held(redis, slow, keys[1]), "it reads", PATIENCE_S)
            await publish(redis, "stuck", key=keys[0])
            assert (await slow.next()).aggregate_id == "stuck"
            for key in keys:
                await publish(redis, "stuck", key=key)
            async with consuming(kind, redis_url, settings()) as other:
                came = [await other.next() for _ in range(3)]
                for key in keys:
                    await becomes(partial(pending, redis, key), [], "what is pending", PATIENCE_S)
                assert await slow.rest() == []
                ends.set()
                await until(lambda: shared_by_two(redis, keys, slow, other), "they share again", PATIENCE_S)
        assert sorted(event.deliveries for event in came)[-1] >= 2
    finally:
        ends.set()


async def shared_by_two(client: Any, keys: list[str], one: Running, two: Running) -> bool:
    return set(await holders(client, keys)) == {one.name, two.name}


@both_kinds
async def test_leases_that_redis_lost(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    """Another takes a higher token, and the one who had it begins nothing under the old one."""
    async with consuming(kind, redis_url, group(ordered=True)) as running:
        await publish(redis, "a")
        before = await running.next()
        await until_nothing_is_pending(redis)
        await redis.flushall()
        await publish(redis, "a")
        after = await running.next()
        await until_nothing_is_pending(redis)
    assert after.fence > before.fence > 0
    assert after.deliveries == 1


@both_kinds
async def test_what_somebody_acknowledged_by_hand_is_skipped(kind: str, redis: "aio.Redis", redis_url: str) -> None:
    def behave(event: Received) -> None:
        if event.entry_id == first:
            raise LookupError

    first, second = [await publish(redis, "a") for _ in range(2)]
    async with consuming(kind, redis_url, group(ordered=True, retry=timedelta(minutes=1)), behave) as running:
        assert (await running.next()).entry_id == first
        await redis.xack(STREAM, GROUP, first)
        await redis.hset(lease_of(STREAM, GROUP), "holder", "somebody")  # so that it looks through all that is pending
        await until(lambda: is_known(redis, running, STREAM), "it looks", PATIENCE_S)
        await redis.hset(lease_of(STREAM, GROUP), "until", 1)
        assert (await running.next()).entry_id == second
        await until_nothing_is_pending(redis)


@both_kinds
async def test_trimmed_entries_are_named_and_dropped(
    kind: str, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("trimmed", "trimmed", "kept"):
        await publish(redis, name)
    await abandon(redis)
    await redis.xtrim(STREAM, maxlen=1, approximate=False)
    async with consuming(kind, redis_url, group(ordered=True)) as running:
        assert (await running.next()).aggregate_id == "kept"
        await until_nothing_is_pending(redis)
    assert "lost 2 entries" in caplog.text


@both_kinds
async def test_a_long_line_behind_one_that_failed_holds_up_no_other(
    kind: str, redis: "aio.Redis", redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until so many wait that reading on would fill the memory: then the shard is read no further."""
    monkeypatch.setattr(ordered_reader, "WAITING_MOST", 300)
    monkeypatch.setattr(ordered_reader, "WAITING_LEAST", 300)
    fails = True

    def behave(event: Received) -> None:
        if event.entry_id == ids[0] and fails:
            raise LookupError

    ids = [await publish(redis, "a") for _ in range(250)]
    async with consuming(kind, redis_url, group(ordered=True, max_deliveries=10_000), behave) as running:
        ids.append(await publish(redis, "b"))
        while (event := await running.next()).aggregate_id != "b":
            assert event.entry_id == ids[0]
        ids += [await publish(redis, "a") for _ in range(250)]
        await logged(caplog, "it is read no further for now")
        fails = False
        came: list[Received] = []
        while not came or came[-1].entry_id != ids[-1]:
            came.append(await running.next())
        await until_nothing_is_pending(redis)
    assert list(dict.fromkeys(event.entry_id for event in came))[-499:] == ids[1:250] + ids[251:]
    assert {event.deliveries for event in came[-499:]} == {1}


@both_kinds
def test_what_cannot_be_is_refused(kind: str, redis_url: str) -> None:
    consumer: Any = Consumer if kind == "blocking" else AsyncConsumer
    module: Any = sync if kind == "blocking" else aio
    with pytest.raises(ValueError, match="must not hold braces"):
        group(stream="a{b}", ordered=True)
    single = module.Redis.from_url(redis_url, single_connection_client=True)
    with pytest.raises(ValueError, match="without ordered=True"):
        consumer(single, group(ordered=True))


@both_kinds
async def test_the_acl_of_the_documentation_is_enough(kind: str, where: tuple[str, str, Any]) -> None:
    def behave(event: Received) -> None:
        if event.aggregate_id == "bad":
            raise LookupError

    url, pool, client = where
    consumers = page("runbook/consumers.md")
    rights = blocks("Rights of a consumer", "", consumers)
    more = rights[2].replace("{sanctum:messages}:billing:lease", "sanctum:messages:{*}:billing:lease")
    nodes = [node.name for node in client.get_nodes()] if pool == "cluster" else [url.rpartition("/")[2] and url]
    for node in nodes:
        async with aio.Redis.from_url(node if "://" in node else f"redis://{node}") as admin:
            for line in (rights[1], more):
                version = (await admin.info("server"))["redis_version"]
                await admin.execute_command(*rights_for(version, line, consumers))  # type: ignore[no-untyped-call]
    await publish(client, "left", key=KEYS[4])
    await abandon(client, key=KEYS[4])
    for number, key in enumerate(KEYS):
        await publish(client, "good" if number else "bad", key=key)
    settings = group(shards=SHARDS, ordered=True, max_deliveries=2)
    async with consuming(kind, url.replace("redis://", "redis://billing:secret@"), settings, behave, pool=pool) as one:
        came = sorted([(await one.next()).aggregate_id for _ in range(SHARDS + 2)])
        await nothing_is_pending(client)
        await one.stop()
    assert came == ["bad", "bad", *["good"] * (SHARDS - 1), "left"]
    for node in nodes:
        async with aio.Redis.from_url(node if "://" in node else f"redis://{node}", decode_responses=True) as after:
            denied = {entry["object"] for entry in await after.acl_log() if entry["username"] == "billing"}
            assert denied == ({"client"} if version < "7" else set())
            await after.acl_deluser("billing")
            await after.acl_log_reset()


@pytest.mark.parametrize("where_shown", ["how-to/consume.md", "how-to/other-languages.md"])
async def test_what_the_pages_show(where_shown: str, redis: "aio.Redis", redis_url: str) -> None:
    program = code("In order", "python", page(where_shown))
    for number, key in enumerate(KEYS):
        for step in range(3):
            await publish(redis, f"{number}", key=key, event_type=f"step{step}")
        if number == 3:
            await abandon(redis, key=key)
    environment = {**os.environ, "REDIS_URL": redis_url}
    command = [sys.executable, "-W", "error", "-c", program]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(3 * SHARDS)]
    await nothing_is_pending(redis)
    process.kill()
    await process.wait()
    words = [line.split() for line in lines]
    steps = [
        [kind for line in words for kind in line if kind[:4] == "step" and str(number) in line] for number in range(8)
    ]
    assert steps == [["step0", "step1", "step2"]] * SHARDS


@both_kinds
async def test_one_without_the_order_in_the_same_group_is_named(
    kind: str, where: tuple[str, str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It takes events from under those that keep the order, and no lease stops it."""
    url, pool, client = where
    quick = timedelta(seconds=1)

    async def named() -> bool:
        for key in KEYS:  # before Redis 7.2 a group does not know a consumer that has never got an entry
            await publish(client, "one", key=key)
        return "the consumer plain of the group billing reads" in caplog.text

    ordered = group(shards=SHARDS, ordered=True, claim_idle=quick)
    async with (
        consuming(kind, url, ordered, pool=pool) as one,
        consuming(kind, url, group(shards=SHARDS, consumer="plain", claim_idle=quick), pool=pool) as plain,
    ):
        await until(named, "it is named", PATIENCE_S)
        await plain.stop()
        await one.stop()
    assert "ordered=True" in caplog.text


def test_the_scripts_of_the_page_are_those_of_the_library() -> None:
    body = ast.parse(code("In order", "python", page("how-to/other-languages.md"))).body
    constants = [each for each in body if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)]
    texts = {
        ast.unparse(each.targets[0]): each.value.value for each in constants if isinstance(each.value, ast.Constant)
    }
    names = ("LEASES", "FENCED", "READ", "PENDING")
    assert {name: texts[name] for name in names} == {name: getattr(scripts, name) for name in names}
