"""A Redis Cluster: whether every slot is served, every primary has a replica, and one that is away holds up others."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import anyio
from redis.exceptions import RedisError

from dispatcher.core.counted import counted
from dispatcher.core.errors import DispatcherError
from dispatcher.core.findings.finding import Finding, bad, ok, unknown, warning
from dispatcher.core.redis_url import Address
from dispatcher.infra.redis.cluster import SLOTS, ClusterTarget, Topology, read_topology
from dispatcher.infra.redis.connection import RedisTarget
from dispatcher.ops.doctor.redis import RedisFacts, look_at_redis

COVERAGE = "cluster-require-full-coverage"


async def look_at_all(
    url: str, keys: Sequence[str], timeout_s: float, *, full_share: float, in_order: bool
) -> tuple[list[Finding], dict[str, RedisFacts]]:
    """As look_at_redis, of the one server, or of each node of a Cluster that serves some of the keys."""
    target = RedisTarget.parse(url).cluster
    if target is None:
        return await look_at_redis(url, keys, timeout_s, full_share=full_share, in_order=in_order)
    try:
        topology = await read_topology(target, timeout_s)
    except DispatcherError as error:
        return [bad("redis", str(error), "start the nodes, or correct what the message names")], {}
    findings, facts = await _of_cluster(target, topology, keys, timeout_s), dict[str, RedisFacts]()
    by_node: dict[Address, list[str]] = {}
    for key in keys:
        if (node := topology.node_of(key)) is not None:
            by_node.setdefault(node, []).append(key)
    for node, there in by_node.items():
        found, of_node = await look_at_redis(url, there, timeout_s, full_share=full_share, in_order=in_order, at=node)
        where = f"{node[0]}:{node[1]}: "
        # What is well is said of the first node alone.
        for each in found:
            if each.check == "redis-replicas" and not topology.replicas_of(node):
                each = replace(each, remedy="see cluster-replicas")  # of one server it is another
            if each.level != "ok" or not facts:
                findings.append(replace(each, found=where + each.found))
        facts |= of_node
    return findings, facts


async def _of_cluster(
    target: ClusterTarget, topology: Topology, keys: Sequence[str], timeout_s: float
) -> list[Finding]:
    return [
        _slots(topology),
        _replicas(topology),
        await _coverage(target, topology, timeout_s),
        _spread(topology, keys),
    ]


def _slots(topology: Topology) -> Finding:
    if missing := topology.uncovered:
        said = f"no node serves {missing:,} of {SLOTS:,} slots: their events wait"
        return bad("cluster-slots", said, "redis-cli --cluster check <node>, then --cluster fix; or start what is down")
    return ok("cluster-slots", f"every slot is served, by {counted(len(topology.primaries), 'primary')}")


def _replicas(topology: Topology) -> Finding:
    alone = [f"{host}:{port}" for host, port in topology.primaries if not topology.replicas_of((host, port))]
    if alone:
        said = f"without a replica: {', '.join(alone)}; when such a machine is lost, so are its entries"
        return warning("cluster-replicas", said, "CLUSTER REPLICATE on a new node, for each of them")
    return ok("cluster-replicas", "every primary has a replica")


async def _coverage(target: ClusterTarget, topology: Topology, timeout_s: float) -> Finding:
    """Each node goes by its own setting, and a replica by its own once it is promoted."""
    required: dict[Address, bool] = {}
    async with anyio.create_task_group() as tasks:
        for node in topology.nodes:
            tasks.start_soon(_ask_coverage, target, node, timeout_s, required)
    if not required:
        return unknown(
            "cluster-coverage", f"{COVERAGE} could not be read", "allow this user +config|get, or look there"
        )
    if strict := [f"{host}:{port}" for host, port in topology.nodes if required.get((host, port))]:
        said = f"{COVERAGE} is yes: while one node is away all others refuse, and every shard waits"
        if len(strict) < len(topology.nodes):
            said = (
                f"{COVERAGE} is yes on {', '.join(strict)}: while another node is away it refuses, and its shards wait"
            )
        return warning("cluster-coverage", said, f"CONFIG SET {COVERAGE} no, on every node")
    return ok("cluster-coverage", f"{COVERAGE} is no: a node that is away holds up its own slots only")


async def _ask_coverage(
    target: ClusterTarget, address: Address, timeout_s: float, required: dict[Address, bool]
) -> None:
    node = target.node(address, timeout_s)
    with suppress(RedisError, OSError, TimeoutError):
        found = await node.execute_command("CONFIG", "GET", COVERAGE)
        required[address] = b"yes" in (found.values() if isinstance(found, dict) else found)
    await node.disconnect()


def _spread(topology: Topology, keys: Sequence[str]) -> Finding:
    nodes = {topology.node_of(key) for key in keys}
    if len(nodes) > 1 or len(topology.primaries) == 1:
        many = counted(len(topology.primaries), "primary")
        return ok("cluster-spread", f"{counted(len(keys), 'key')} on {len(nodes)} of {many}")
    said = f"all {len(keys)} keys lie on one of {len(topology.primaries)} primaries: the others have nothing to do"
    remedy = "DISPATCH_STREAM_SHARDS of about four times the primaries, or move slots; see `dispatcher layout`"
    return warning("cluster-spread", said, remedy)
