"""A Redis Cluster whose nodes die, come back and give slots away."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
from redis.crc import key_slot

from dispatcher.embedded import EmbeddedCluster
from dispatcher.embedded.cluster import wait_until
from tests.support.faults.world import World, in_thread
from tests.support.redis import StartCluster
from tests.support.rows import STREAM
from tests.support.waiting import until

SLOT = key_slot(STREAM.encode())
StartClusterWorld = Callable[..., AbstractAsyncContextManager[tuple[World, EmbeddedCluster]]]


@pytest.fixture
def cluster_world(
    request: pytest.FixtureRequest, fault_database_url: str, own_cluster: StartCluster
) -> StartClusterWorld:
    """`async with cluster_world() as (w, cluster):` one stream, on one of three nodes."""
    test = request.node.nodeid.partition("[")[0]

    @asynccontextmanager
    async def start(**env: str) -> AsyncIterator[tuple[World, EmbeddedCluster]]:
        cluster = await in_thread(own_cluster)
        async with World(fault_database_url, cluster.owner(SLOT), test, env) as w:
            yield w, cluster

    return start


@pytest.mark.promise("redis-outage")
async def test_the_primary_of_the_stream_is_killed(cluster_world: StartClusterWorld) -> None:
    async with cluster_world() as (w, cluster):
        one = await w.dispatcher(REDIS_URL=cluster.url)
        async with w.survives("Cluster: the stream's primary is killed, its replica promoted") as fault:
            await w.commits(50)
            old = cluster.owner(SLOT)
            await in_thread(old.crash)
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await in_thread(lambda: wait_until(lambda: cluster.owner(SLOT) is not old, "its replica is promoted"))
            w.valkey = cluster.owner(SLOT)
            fault.heal()


@pytest.mark.promise("redis-outage")
async def test_the_slot_of_the_stream_moves(cluster_world: StartClusterWorld) -> None:
    async with cluster_world() as (w, cluster):
        await w.dispatcher(REDIS_URL=cluster.url)
        async with w.survives("Cluster: the stream's slot moves to another node under load, and back") as fault:
            await w.commits(50)
            old = cluster.owner(SLOT)
            joined = await in_thread(cluster.add_primary)
            await in_thread(partial(cluster.move_slot, SLOT, joined))
            w.valkey = joined
            await w.commits(50)
            await in_thread(partial(cluster.move_slot, SLOT, old))
            w.valkey = old
            fault.heal()
