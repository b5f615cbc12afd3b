"""Consumers that keep the order of each aggregate: who reads which shard, and what another may not do meanwhile."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from redis import asyncio as aio

from dispatcher.client.consumer import Received
from dispatcher.client.leases import lease_of
from tests.support.consumers import (
    DEAD,
    GROUP,
    PATIENCE_S,
    Running,
    abandon,
    consuming,
    group,
    pending,
    publish,
    until_nothing_is_pending,
)
from tests.support.rows import STREAM
from tests.support.waiting import becomes, until

SHARDS = 8
KEYS = [f"{STREAM}:{{{shard}}}" for shard in range(SHARDS)]

both_kinds = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


@pytest.fixture(params=["one server", "cluster"])
async def where(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str, Any]]:
    """(URL, kind of pool, a client for the test's own commands), empty."""
    if request.param == "one server":
        url = request.getfixturevalue("redis_url")
        async with aio.Redis.from_url(url, decode_responses=True) as client:
            yield url, "pool", client
        return
    url = request.getfixturevalue("client_cluster").nodes[0].url
    async with aio.RedisCluster.from_url(url, decode_responses=True) as client:
        await client.flushall(target_nodes=aio.RedisCluster.PRIMARIES)
        yield url, "cluster", client


async def nothing_is_pending(client: Any) -> None:
    for key in KEYS:
        await becomes(partial(pending, client, key), [], f"what is pending in {key}", PATIENCE_S)


async def holders(client: Any, keys: list[str] = KEYS) -> list[str]:
    """Who holds each lease; "": nobody."""
    return [await client.hget(lease_of(key, GROUP), "holder") or "" for key in keys]


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
