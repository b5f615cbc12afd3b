"""Consumers of a stream with shards: on one server, and in a Cluster of which a node may be away."""

import asyncio
import os
import signal
import sys
import threading
import uuid
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.client.consumer import AsyncConsumer, Consumer, Received
from dispatcher.client.group import Group
from tests.support.cluster import ChangingCluster
from tests.support.consumers import (
    GROUP,
    KEYS,
    PATIENCE_S,
    SHARDS,
    Running,
    abandon,
    both_kinds,
    close,
    consuming,
    group,
    nothing_is_pending,
    pending,
    publish,
    read_to_the_end,
)
from tests.support.readme import blocks, code, page
from tests.support.redis import FAILS_OVER, StartCluster
from tests.support.waiting import pass_time, until


def plain(cluster: ChangingCluster) -> str:
    """The URL of one node, as redis-py takes it."""
    return cluster.nodes[0].url


@both_kinds
async def test_all_shards_are_read_and_acknowledged(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    for number, key in enumerate(KEYS * 2):
        await publish(client, str(number), key=key)
    async with consuming(kind, url, group(shards=SHARDS), pool=pool) as running:
        came = [await running.next() for _ in range(2 * SHARDS)]
        await publish(client, "late", key=KEYS[3])
        late = await running.next()
        await nothing_is_pending(client)
        await running.stop()
    assert sorted(int(event.aggregate_id) for event in came) == list(range(2 * SHARDS))
    assert {event.stream for event in came} == set(KEYS)
    assert (late.aggregate_id, late.stream) == ("late", KEYS[3])
    assert [await client.xinfo_consumers(key, GROUP) for key in KEYS] == [[]] * SHARDS


@both_kinds
async def test_a_handler_is_called_by_one_thread_and_once_at_a_time(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    for number, key in enumerate(KEYS * 5):
        await publish(client, str(number), key=key)
    working = 0
    most = 0

    async def work(event: Received) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await client.exists(event.stream)
        working -= 1

    threads: set[int] = set()

    def behave(event: Received) -> None:
        nonlocal working, most

        threads.add(threading.get_ident())
        working += 1
        most = max(most, working)
        working -= 1

    async with consuming(kind, url, group(shards=SHARDS), behave, pool=pool) as running:
        if kind == "asyncio":
            running.behave_async(work)
        for _ in range(5 * SHARDS):
            await running.next()
        await nothing_is_pending(client)
    assert most == 1
    assert len(threads) <= 1


@both_kinds
async def test_what_fails_comes_again_and_is_put_away_beside_its_key(kind: str, where: tuple[str, str, Any]) -> None:
    def behave(event: Received) -> None:
        if event.aggregate_id == "bad":
            raise LookupError

    url, pool, client = where
    await publish(client, "bad", key=KEYS[2])
    await publish(client, "good", key=KEYS[5])
    async with consuming(kind, url, group(shards=SHARDS, max_deliveries=2), behave, pool=pool) as running:
        came = [await running.next() for _ in range(3)]
        await nothing_is_pending(client)
    assert sorted((event.aggregate_id, event.deliveries) for event in came) == [("bad", 1), ("bad", 2), ("good", 1)]
    [(_, entry)] = await client.xrange(f"{KEYS[2]}:{GROUP}:dead")
    assert entry["dead_deliveries"] == "2"


@both_kinds
async def test_abandoned_entries_of_every_shard_are_claimed(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    for key in KEYS:
        for number in range(3):
            await publish(client, f"{key} {number}", key=key)
        await abandon(client, key=key)
    async with consuming(kind, url, group(shards=SHARDS), pool=pool) as running:
        came = [await running.next() for _ in range(3 * SHARDS)]
        await nothing_is_pending(client)
    assert {(event.stream, event.deliveries) for event in came} == {(key, 2) for key in KEYS}


@both_kinds
async def test_consumers_share_the_shards_and_a_stop_gives_back(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    first: Running
    for number, key in enumerate(KEYS * 3):
        await publish(client, str(number), key=key)
    async with consuming(
        kind,
        url,
        group(shards=SHARDS, claim_idle=timedelta(minutes=10)),
        lambda _: first.consumer.stop(),
        pool=pool,
    ) as first:
        stopped = await first.next()
        await first.stop()
    seen = [stopped.aggregate_id, *(event.aggregate_id for event in await first.rest())]
    async with (
        consuming(kind, url, group(shards=SHARDS), pool=pool) as second,
        consuming(kind, url, group(shards=SHARDS), pool=pool) as third,
    ):
        await nothing_is_pending(client)
        for key in KEYS:
            await until(partial(read_to_the_end, client, key), "nothing is left to read", PATIENCE_S)
        seen += [event.aggregate_id for event in [*await second.rest(), *await third.rest()]]
    assert sorted(seen, key=int) == [str(number) for number in range(3 * SHARDS)]


@both_kinds
async def test_a_shard_that_is_deleted_holds_up_no_other(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    async with consuming(kind, url, group(shards=SHARDS), pool=pool) as running:
        for key in KEYS:
            await publish(client, "before", key=key)
        assert [(await running.next()).aggregate_id for _ in KEYS] == ["before"] * SHARDS
        await nothing_is_pending(client)
        await client.delete(KEYS[1])
        for key in (KEYS[0], KEYS[1]):
            await publish(client, "after", key=key)
        after = {(await running.next()).stream for _ in range(2)}
    assert after == {KEYS[0], KEYS[1]}


@both_kinds
async def test_several_are_handled_at_a_time(kind: str, where: tuple[str, str, Any]) -> None:
    url, pool, client = where
    for number in range(3 * SHARDS):
        await publish(client, str(number), key=KEYS[number % 3])
    together = 10
    if kind == "blocking":
        barrier = threading.Barrier(together)

        def behave(event: Received) -> None:
            if int(event.aggregate_id) < together:
                barrier.wait(PATIENCE_S)

        context = consuming(kind, url, group(shards=SHARDS), behave, pool=pool, concurrency=together)
    else:
        context = consuming(kind, url, group(shards=SHARDS), pool=pool, concurrency=together)
    async with context as running:
        if kind == "asyncio":
            meeting = asyncio.Barrier(together)

            async def work(event: Received) -> None:
                if int(event.aggregate_id) < together:
                    async with asyncio.timeout(PATIENCE_S):
                        await meeting.wait()

            running.behave_async(work)
        came = [await running.next() for _ in range(3 * SHARDS)]
        await nothing_is_pending(client)
    assert len({event.aggregate_id for event in came}) == 3 * SHARDS


@both_kinds
async def test_an_answer_that_nobody_can_wait_for_ends_the_run(kind: str, where: tuple[str, str, Any]) -> None:
    def unfinished(event: Received) -> Any:
        return asyncio.sleep(0)

    async def unfinished_too(event: Received) -> Any:
        return asyncio.sleep(0)

    url, pool, client = where
    for key in KEYS:
        await publish(client, "kept", key=key)
    module: Any = sync if kind == "blocking" else aio
    theirs = (module.RedisCluster if pool == "cluster" else module.Redis).from_url(url)
    if kind == "blocking":
        running = asyncio.to_thread(Consumer(theirs, group(shards=SHARDS), concurrency=2).run, unfinished)
    else:
        running = AsyncConsumer(theirs, group(shards=SHARDS), concurrency=2).run(unfinished_too)
    with pytest.raises(TypeError, match="the function returned a coroutine"):
        await asyncio.wait_for(running, PATIENCE_S)
    assert sum([len(await pending(client, key)) for key in KEYS]) > 0
    await theirs.aclose() if kind == "asyncio" else close(theirs)


@both_kinds
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_node_that_is_away_delays_its_shards_only(kind: str, how: str, own_cluster: StartCluster) -> None:
    options = {"cluster-require-full-coverage": "no"}
    cluster = await asyncio.to_thread(own_cluster, replicas=0, appendonly=True, options=options)
    async with aio.RedisCluster.from_url(plain(cluster), decode_responses=True) as client:
        away = cluster.owner(client.keyslot(KEYS[0]))
        theirs = [key for key in KEYS if cluster.owner(client.keyslot(key)) is away]
        others = [key for key in KEYS if key not in theirs]
        assert others
        url = next(node.url for node in cluster.nodes if node is not away)
        settings = group(shards=SHARDS, claim_idle=timedelta(minutes=1))
        patience_s = 20 if how == "killed" else 5  # a frozen one is waited for so long
        async with consuming(kind, url, settings, pool="cluster", socket_timeout=patience_s) as running:
            for key in KEYS:
                await publish(client, "before", key=key)
            assert {(await running.next()).stream for _ in KEYS} == set(KEYS)
            if how == "killed":
                await asyncio.to_thread(away.crash)
            else:
                os.kill(away.pid, signal.SIGSTOP)
            for number in range(20):
                for key in others:
                    await publish(client, str(number), key=key)
                came = [await running.next() for _ in others]
                assert {(event.stream, event.aggregate_id) for event in came} == {(key, str(number)) for key in others}
                await pass_time(0.1)  # through tries to reach the one that is away
            if how == "killed":
                await asyncio.to_thread(away.start)
            else:
                os.kill(away.pid, signal.SIGCONT)
            await asyncio.to_thread(cluster.wait_formed)
            for key in theirs:
                await publish(client, "after", key=key)
            assert {(await running.next()).stream for _ in theirs} == set(theirs)
            await nothing_is_pending(client)


@both_kinds
async def test_after_a_failover_and_a_move_of_slots_all_goes_on(kind: str, own_cluster: StartCluster) -> None:
    cluster = await asyncio.to_thread(own_cluster, options=FAILS_OVER)
    async with aio.RedisCluster.from_url(plain(cluster), decode_responses=True) as client:
        url = cluster.nodes[1].url
        async with consuming(kind, url, group(shards=SHARDS), pool="cluster", socket_timeout=20) as running:
            for key in KEYS:
                await publish(client, "before", key=key)
            assert {(await running.next()).stream for _ in KEYS} == set(KEYS)
            slot = client.keyslot(KEYS[0])
            source = cluster.owner(slot)
            target = next(node for node in cluster.nodes[:3] if node is not source)
            await asyncio.to_thread(cluster.move_slot, slot, target)
            await publish(client, "moved", key=KEYS[0])
            assert (await running.next()).aggregate_id == "moved"
            victim = cluster.nodes[0]
            await asyncio.to_thread(victim.crash)
            for key in KEYS:
                await until(partial(published, client, key), f"{key} takes entries", PATIENCE_S)
            seen: set[str] = set()
            while len(seen) < SHARDS:
                event = await running.next()
                if event.aggregate_id == "after":
                    seen.add(event.stream)
            await asyncio.to_thread(victim.start)


async def published(client: Any, key: str) -> bool:
    try:
        await publish(client, "after", key=key)
    except (sync.RedisError, sync.exceptions.RedisClusterException, OSError):
        return False
    return True


@both_kinds
async def test_a_dedup_store_in_a_cluster(kind: str, client_cluster: ChangingCluster) -> None:
    event_id = uuid.uuid4()
    async with aio.RedisCluster.from_url(plain(client_cluster), decode_responses=True) as client:
        await client.flushall(target_nodes=aio.RedisCluster.PRIMARIES)
        for key in (KEYS[0], KEYS[0], KEYS[5]):
            await publish(client, "twice", event_id, key=key)
        await publish(client, "last", key=KEYS[7])
        async with consuming(kind, plain(client_cluster), group(shards=SHARDS), pool="cluster", dedup=True) as running:
            came = [(await running.next()).aggregate_id for _ in range(2)]
            await nothing_is_pending(client)
            for key in KEYS:
                await until(partial(read_to_the_end, client, key), "nothing is left to read", PATIENCE_S)
            assert await running.rest() == []
    assert sorted(came) == ["last", "twice"]


@both_kinds
async def test_the_acl_of_the_documentation_is_enough(kind: str, client_cluster: ChangingCluster) -> None:
    def behave(event: Received) -> None:
        if event.aggregate_id == "bad":
            raise LookupError

    _, line, *_ = blocks("Rights of a consumer", "", page("runbook/consumers.md"))
    async with aio.RedisCluster.from_url(plain(client_cluster), decode_responses=True) as client:
        await client.flushall(target_nodes=aio.RedisCluster.PRIMARIES)
        for node in client_cluster.nodes:
            async with aio.Redis.from_url(node.url) as one:
                await one.execute_command(*line.split())  # type: ignore[no-untyped-call]
        await publish(client, "abandoned", key=KEYS[4])
        await abandon(client, key=KEYS[4])
        for number, key in enumerate(KEYS):
            await publish(client, "good" if number else "bad", key=key)
        url = plain(client_cluster).replace("redis://", "redis://billing:secret@")
        settings = group(shards=SHARDS, max_deliveries=2)
        async with consuming(kind, url, settings, behave, pool="cluster") as running:
            came = [(await running.next()).aggregate_id for _ in range(SHARDS + 2)]
            await until(lambda: client.exists(f"{KEYS[0]}:{GROUP}:dead"), "the entry is put away", PATIENCE_S)
            await nothing_is_pending(client)
            await running.stop()
        assert sorted(came) == ["abandoned", "bad", "bad", *["good"] * (SHARDS - 1)]
        for node in client_cluster.nodes:
            async with aio.Redis.from_url(node.url, decode_responses=True) as one:
                assert [entry for entry in await one.acl_log() if entry["username"] == "billing"] == []


@pytest.mark.parametrize("where_shown", ["how-to/consume.md", "how-to/other-languages.md"])
async def test_what_the_pages_show(where_shown: str, client_cluster: ChangingCluster) -> None:
    program = code("A stream with shards", "python", page(where_shown))
    async with aio.RedisCluster.from_url(plain(client_cluster), decode_responses=True) as client:
        await client.flushall(target_nodes=aio.RedisCluster.PRIMARIES)
        await publish(client, "abandoned", key=KEYS[3])
        await abandon(client, key=KEYS[3])
        for key in KEYS:
            await publish(client, key, key=key)
        environment = {**os.environ, "REDIS_URL": plain(client_cluster)}
        command = [sys.executable, "-W", "error", "-c", program]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode().split() for _ in range(SHARDS + 1)]
        await nothing_is_pending(client)
        process.kill()
        await process.wait()
    expected = [[key, "order.created", key] for key in KEYS] + [[KEYS[3], "order.created", "abandoned"]]
    assert sorted(lines) == sorted(expected)


@both_kinds
def test_what_cannot_be_is_refused(kind: str, redis_url: str) -> None:
    consumer: Any = Consumer if kind == "blocking" else AsyncConsumer
    module: Any = sync if kind == "blocking" else aio
    with pytest.raises(ValueError, match="shards is 3: it must be"):
        Group(stream="s", group="g", shards=3)
    with pytest.raises(ValueError, match="stream holds braces"):
        Group(stream="s:{0}", group="g", shards=2)
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        consumer(module.Redis.from_url(redis_url), group(), concurrency=0)
    with pytest.raises(TypeError, match="outages must be"):
        consumer(module.Redis.from_url(redis_url), group(), outages=("Away",))
    single = module.Redis.from_url(redis_url, single_connection_client=True)
    with pytest.raises(ValueError, match="a single_connection_client reads for one"):
        consumer(single, group(), concurrency=2)
