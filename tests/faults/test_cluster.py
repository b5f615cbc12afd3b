"""A Redis Cluster whose nodes die, come back and give slots away."""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from redis.asyncio.cluster import ClusterNode as Node
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from dispatcher.client.group import shard_keys
from dispatcher.core.incarnation import stream_order
from dispatcher.embedded.cluster import ClusterNode, wait_until
from tests.faults.test_redis_loss import put_back
from tests.support.cluster import ChangingCluster
from tests.support.faults.process import Process
from tests.support.faults.world import Fault, World, in_thread
from tests.support.redis import FAILS_OVER, StartCluster
from tests.support.rows import STREAM
from tests.support.waiting import becomes, pass_time, until

SLOT = key_slot(STREAM.encode())
SHARDS = 8
# The client of the gauges keeps two connections to each of six nodes at most, one of them to ask where slots lie. It
# opens them as it meets the nodes: after six failovers a dispatcher had two files more than before the first.
SPARE_FILES = 12
LIMITS = {"DISPATCH_STREAM_SHARDS": str(SHARDS)}
StartShardWorld = Callable[..., AbstractAsyncContextManager["ShardWorld"]]
StartClusterWorld = Callable[..., AbstractAsyncContextManager[tuple[World, ChangingCluster]]]


@asynccontextmanager
async def broken(w: World, cluster: ChangingCluster, fault: str) -> AsyncIterator[tuple[Process, Fault]]:
    """A dispatcher under load, to which the block does something; as World.survives."""
    one = await w.dispatcher(REDIS_URL=cluster.url)
    async with w.survives(fault, spare_files=SPARE_FILES) as begun:
        await w.commits(50)
        yield one, begun


@contextmanager
def frozen(*nodes: ClusterNode) -> Iterator[None]:
    """They stand still until the block ends."""
    for node in nodes:
        os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            os.kill(node.pid, signal.SIGCONT)


@pytest.fixture
def cluster_world(
    request: pytest.FixtureRequest, fault_database_url: str, own_cluster: StartCluster
) -> StartClusterWorld:
    """`async with cluster_world() as (w, cluster):` one stream, on one of three nodes."""
    test = request.node.nodeid.partition("[")[0]

    @asynccontextmanager
    async def start(**env: str) -> AsyncIterator[tuple[World, ChangingCluster]]:
        cluster = await in_thread(lambda: own_cluster(options=FAILS_OVER))
        async with World(fault_database_url, cluster.owner(SLOT), test, env) as w:
            yield w, cluster

    return start


class ShardWorld(World):
    """A world whose stream has shards, on the nodes of a Cluster."""

    cluster: ChangingCluster

    async def entries(self, newest: int | None = None) -> list[tuple[str, float]]:
        """As of World, of all shards that can be read."""
        found: list[tuple[str, str]] = []
        client = RedisCluster(
            startup_nodes=[Node("127.0.0.1", node.port) for node in self.cluster.nodes],
            require_full_coverage=False,
            decode_responses=True,
            socket_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            for key in shard_keys(STREAM, SHARDS):
                with suppress(RedisError):
                    read: Any = await (client.xrevrange(key, count=newest) if newest else client.xrange(key))
                    found += [(entry, fields["event_id"]) for entry, fields in read]
        finally:
            await client.aclose()
        found.sort(key=lambda each: stream_order(each[0]), reverse=newest is not None)
        return [(event, int(entry.partition("-")[0]) / 1000) for entry, event in found[:newest]]

    def owner(self, shard: int) -> ClusterNode:
        """The node that serves a shard."""
        return self.cluster.owner(key_slot(f"{{{shard}}}".encode()))

    def shards_of(self, node: ClusterNode) -> list[int]:
        """The shards that lie on it."""
        return [shard for shard in range(SHARDS) if self.owner(shard) is node]

    def replica_of(self, node: ClusterNode) -> ClusterNode:
        """The replica that it was formed with."""
        return self.cluster.nodes[self.cluster.nodes.index(node) + self.cluster.primaries]

    async def tell_lateness(self, there: list[int], since: float, until_: float) -> None:
        """Print how late events were that were committed in between: those of these shards, and the others."""
        slots = dict(await self.ask("SELECT event_id::text, slot FROM messaging.message_outbox"))
        added = dict(await self.entries())
        late: dict[bool, list[float]] = {True: [], False: []}
        for event, at in self.load.ledger.acknowledged.items():
            if since < at < until_ and event in added:
                late[slots[event] * SHARDS // 256 in there].append(added[event] - at)
        for on_it, values in late.items():
            if values:
                p99 = sorted(values)[int(len(values) * 0.99)]
                where = "on it" if on_it else "of the others"
                print(f"shards {where}: {len(values)} events, p99 {p99 * 1000:.0f} ms")  # noqa: T201


@pytest.fixture
def shard_world(request: pytest.FixtureRequest, fault_database_url: str, own_cluster: StartCluster) -> StartShardWorld:
    """`async with shard_world() as w:` a stream of eight shards on three nodes."""
    test = request.node.nodeid.partition("[")[0]

    @asynccontextmanager
    async def start(**env: str) -> AsyncIterator[ShardWorld]:
        cluster = await in_thread(lambda: own_cluster(options=FAILS_OVER))
        async with ShardWorld(fault_database_url, cluster.nodes[0], test, LIMITS | env) as w:
            w.cluster = cluster
            yield w

    return start


@pytest.mark.promise("redis-outage")
async def test_a_primary_is_killed(shard_world: StartShardWorld) -> None:
    async with shard_world() as w:
        async with broken(w, w.cluster, "Cluster, 8 shards: a primary is killed, its replica promoted") as (one, fault):
            victim = w.owner(0)
            there, began = w.shards_of(victim), time.time()
            await in_thread(victim.crash)
            await until(lambda: one.events("breaker_opened"), "a breaker opens")
            await in_thread(lambda: wait_until(lambda: w.owner(0) is not victim, "its replica is promoted"))
            fault.heal()
        await w.tell_lateness(there, began, time.time())


@pytest.mark.promise("redis-outage")
async def test_a_node_is_away(shard_world: StartShardWorld) -> None:
    """It and its replica say nothing: nobody is promoted, and its shards wait."""
    async with shard_world() as w:
        async with broken(w, w.cluster, "Cluster, 8 shards: a node and its replica away for 30 s") as (one, fault):
            victim = w.owner(0)
            there, began = w.shards_of(victim), time.time()
            with frozen(victim, w.replica_of(victim)):
                await until(lambda: one.events("shards_away"), "its shards are left out")
                await pass_time(30.0)
            ended = time.time()
            await in_thread(w.cluster.wait_formed)
            fault.heal()
            await until(lambda: one.events("shards_back"), "they are back")
        await w.tell_lateness(there, began, ended)


@pytest.mark.promise("redis-outage")
@pytest.mark.parametrize("order", ["none", "aggregate"])
async def test_a_node_is_away_at_the_start(order: str, shard_world: StartShardWorld) -> None:
    """And a dispatcher died before, with rows of all shards in hand: those of the others are taken over meanwhile."""
    async with shard_world(DISPATCH_ORDER=order) as w:
        # After a crash of Postgres, as in other tests, the streams are searched first: of all nodes.
        before = await w.dispatcher(REDIS_URL=w.cluster.url)
        await w.backlog(1)
        await w.drained()
        await before.child.terminate()
        victim = w.owner(0)
        there = w.shards_of(victim)
        await w.ask("INSERT INTO messaging.dispatcher (id, name) VALUES (4711, 'gone-1-deadbeef')")
        in_hand = await w.ask(
            "INSERT INTO messaging.message_outbox "
            "(event_type, aggregate_id, payload, status, picked_at, picked_by, claim_id, stream_id) "
            "SELECT 'order.created', 'a' || i, '{}', 'picked', clock_timestamp(), 4711, gen_random_uuid(), '1-0' "
            "FROM generate_series(1, 200) AS i RETURNING event_id::text, slot * %s / 256",
            (SHARDS,),
        )
        published = {shard: event for event, shard in in_hand}  # of each shard one, before it died
        for shard, event in published.items():
            key = shard_keys(STREAM, SHARDS)[shard]
            await in_thread(partial(w.owner(shard).ask, "XADD", key, "*", "event_id", event))

        async def waiting() -> set[int]:
            rows = await w.ask(
                "SELECT DISTINCT slot * %s / 256 FROM messaging.message_outbox WHERE NOT settled", (SHARDS,)
            )
            return {shard for (shard,) in rows}

        with frozen(victim, w.replica_of(victim)):
            one = await w.dispatcher(REDIS_URL=w.cluster.url, ready=False)
            await until(lambda: one.events("shards_away"), "its shards are left out")
            await w.backlog(400)
            await becomes(waiting, set(there), "which shards wait, of those in hand too,")
            kept = await w.ask("SELECT count(*) FROM messaging.message_outbox WHERE picked_by = 4711 AND NOT settled")
            assert kept == [(sum(shard in there for _, shard in in_hand),)]
            assert await w.ask("SELECT count(*) FROM messaging.dispatcher WHERE id = 4711") == [(1,)]
        await w.drained()
        found = [event for event, _ in await w.entries()]
        assert len(found) == len(set(found)) == 601
        rows = await w.ask("SELECT count(*) FROM messaging.message_outbox WHERE status <> 'sent' OR attempts > 0")
        assert rows == [(0,)]

        async def deregistered() -> bool:
            return await w.ask("SELECT count(*) FROM messaging.dispatcher WHERE id = 4711") == [(0,)]

        await until(deregistered, "the dead dispatcher is signed off")


@pytest.mark.promise("killed")
async def test_a_dispatcher_is_killed(shard_world: StartShardWorld) -> None:
    """With entries on their way to all three nodes, which carry them out when it is dead already."""
    fault_name = "Cluster, 8 shards: kill -9 with entries on their way to the nodes"
    async with shard_world(DISPATCH_LEASE_MS="60000") as w, broken(w, w.cluster, fault_name) as (one, fault):
        await w.dispatcher(REDIS_URL=w.cluster.url)
        with frozen(*w.cluster.nodes[: w.cluster.primaries]):
            await until(lambda: w.picked(one), "it has rows in hand")
            await one.kill()
        fault.heal()


@pytest.mark.promise("redis-outage")
async def test_slots_move_to_a_node_that_joined(shard_world: StartShardWorld) -> None:
    async with shard_world() as w:
        async with broken(w, w.cluster, "Cluster, 8 shards: two move to a node that joined, and back") as (_, fault):
            old = {shard: w.owner(shard) for shard in (0, 1)}
            joined, began = await in_thread(w.cluster.add_primary), time.time()
            for shard in old:
                await in_thread(partial(w.cluster.move_slot, key_slot(f"{{{shard}}}".encode()), joined))
            await w.commits(50)
            for shard, node in old.items():
                await in_thread(partial(w.cluster.move_slot, key_slot(f"{{{shard}}}".encode()), node))
            await in_thread(partial(w.cluster.forget, joined))
            fault.heal()
        await w.tell_lateness(list(old), began, time.time())


@pytest.mark.promise("redis-outage")
async def test_a_slot_lies_between_two_nodes(shard_world: StartShardWorld) -> None:
    """Its keys are moved and it is still the old node's, which answers ASK: its shard waits for the move, no other."""
    async with shard_world() as w:
        async with broken(w, w.cluster, "Cluster, 8 shards: a move of a slot stands still half-way (ASK)") as (
            one,
            fault,
        ):
            slot = key_slot(b"{0}")
            target = next(node for node in w.cluster.nodes[:3] if node is not w.owner(0))
            began = time.time()
            await in_thread(partial(w.cluster.move_keys, slot, target))
            assert '"shards": 1' in await one.child.line('"event": "shards_away"')
            late = len(w.load.ledger.acknowledged)
            await w.commits(100)
            events = list(w.load.ledger.acknowledged)[late : late + 50]

            async def others_sent() -> bool:
                unsent = await w.ask(
                    "SELECT DISTINCT slot * %s / 256 FROM messaging.message_outbox "
                    "WHERE event_id = ANY (%s::uuid[]) AND NOT settled",
                    (SHARDS, events),
                )
                return unsent == [(0,)]

            await until(others_sent, "what is committed meanwhile waits for that shard alone")
            ended = time.time()
            await in_thread(partial(w.cluster.move_slot, slot, target))
            fault.heal()
        await w.tell_lateness([0], began, ended)


@pytest.mark.promise("redis-outage")
async def test_a_slot_moves_at_once(shard_world: StartShardWorld) -> None:
    """As Valkey 9 moves it: its new node follows it as a replica would, and takes it over in one step."""
    async with (
        shard_world() as w,
        broken(w, w.cluster, "Cluster, 8 shards: a slot moves as a whole (CLUSTER MIGRATESLOTS)") as (_, fault),
    ):
        slot, source = str(key_slot(b"{0}")), w.owner(0)
        target = next(node for node in w.cluster.nodes[:3] if node is not source)
        words = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.node_id)
        await in_thread(partial(source.ask, *words))
        await in_thread(lambda: wait_until(lambda: w.owner(0) is target, "the slot is at its new node"))
        fault.heal()


@pytest.mark.promise("redis-loss")
async def test_a_failover_loses_acknowledged_entries(shard_world: StartShardWorld) -> None:
    async with shard_world() as w:
        async with broken(w, w.cluster, "Cluster, 8 shards: a failover that loses entries") as (one, fault):
            victim = w.owner(0)
            replica = w.replica_of(victim)
            with frozen(replica):
                await in_thread(partial(victim.ask, "CLIENT", "KILL", "TYPE", "replica"))  # what it has not got is lost
                await w.commits(150)
                await in_thread(victim.crash)
            await until(lambda: one.events("breaker_opened"), "a breaker opens")
            await in_thread(lambda: wait_until(lambda: w.owner(0) is replica, "the replica is promoted"))
            fault.heal()
        assert await put_back(w) > 0


@pytest.mark.promise("redis-outage")
async def test_the_primary_of_the_stream_is_killed(cluster_world: StartClusterWorld) -> None:
    async with (
        cluster_world() as (w, cluster),
        broken(w, cluster, "Cluster: the stream's primary is killed, its replica promoted") as (one, fault),
    ):
        old = cluster.owner(SLOT)
        await in_thread(old.crash)
        await until(lambda: one.events("breaker_opened"), "the breaker opens")
        await in_thread(lambda: wait_until(lambda: cluster.owner(SLOT) is not old, "its replica is promoted"))
        w.valkey = cluster.owner(SLOT)
        fault.heal()


@pytest.mark.promise("redis-outage")
async def test_the_slot_of_the_stream_moves(cluster_world: StartClusterWorld) -> None:
    async with (
        cluster_world() as (w, cluster),
        broken(w, cluster, "Cluster: the stream's slot moves to another node under load, and back") as (_, fault),
    ):
        old = cluster.owner(SLOT)
        joined = await in_thread(cluster.add_primary)
        await in_thread(partial(cluster.move_slot, SLOT, joined))
        w.valkey = joined
        await w.commits(50)
        await in_thread(partial(cluster.move_slot, SLOT, old))
        w.valkey = old
        fault.heal()
