"""A server that has gone silent is left at once. Behind TLS redis-py waits for its answer to the end of TLS."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import anyio
import pytest

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.events import Sampled, Settled, Stopped
from dispatcher.core.layout import Layout
from dispatcher.embedded.ask import ask
from dispatcher.embedded.cluster import wait_until
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.cluster import read_topology
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.sentinel import named_primaries
from dispatcher.infra.redis.target import RedisTarget
from dispatcher.ops.doctor.cluster import look_at_all
from dispatcher.relay.stream.gate import SinkGate
from tests.support.proxy import Direction, Filter, Proxy, StartProxy
from tests.support.redis import StartCluster, StartSentinels
from tests.support.rows import STREAM, insert_events
from tests.support.running import StartDispatcher
from tests.support.tap import Tap
from tests.support.tls import Certificate, behind_tls
from tests.support.waiting import until

ALERT = b"\x17\x03\x03\x00\x13"  # so begins a record of TLS 1.3 with an alert: here the client's end of TLS
TIMEOUT_S = 10.0
Places = tuple[str, list[Proxy]]  # a URL, and the proxies on the way
MakeTls = Callable[[int], Awaitable[Proxy]]


def hears_no_end() -> Filter:
    """For `make_filter`: the server answers everything but the end of TLS."""

    def filtered(direction: Direction, data: bytes) -> bytes:
        return b"" if direction == "to_server" and data.startswith(ALERT) else data

    return filtered


@pytest.fixture
async def tls(certificate: Certificate, proxy: StartProxy) -> AsyncIterator[MakeTls]:
    """Starts a proxy, before TLS, before the server at a port."""
    async with AsyncExitStack() as stack:

        async def start(port: int) -> Proxy:
            at = await stack.enter_async_context(behind_tls(f"redis://127.0.0.1:{port}", certificate, plain=True))
            return await proxy(f"rediss://127.0.0.1:{at}")

        yield start


@pytest.fixture
async def server(redis_url: str, certificate: Certificate, proxy: StartProxy) -> AsyncIterator[Places]:
    """One server."""
    async with behind_tls(redis_url, certificate) as port:
        through = await proxy(f"rediss://127.0.0.1:{port}")
        yield f"rediss://127.0.0.1:{through.port}/0?ssl_ca_certs={certificate.authority}", [through]


@pytest.fixture
async def sentinels(own_sentinels: StartSentinels, certificate: Certificate, tls: MakeTls) -> Places:
    """A sentinel that knows the primary by the port where TLS is spoken."""
    watched = await anyio.to_thread.run_sync(lambda: own_sentinels(sentinels=1, quorum=1))
    [sentinel] = watched.sentinels
    primary, through = await tls(watched.primary.port), await tls(sentinel.port)
    ask(sentinel.port, "SENTINEL", "REMOVE", watched.service)
    ask(sentinel.port, "SENTINEL", "MONITOR", watched.service, "127.0.0.1", str(primary.port), "1")
    url = f"rediss+sentinel://127.0.0.1:{through.port}/{watched.service}?ssl_ca_certs={certificate.authority}"
    return url, [primary, through]


@pytest.fixture
async def cluster(own_cluster: StartCluster, certificate: Certificate, tls: MakeTls) -> Places:
    """A Cluster whose nodes are known by the ports where TLS is spoken."""
    nodes = (await anyio.to_thread.run_sync(lambda: own_cluster(replicas=0))).nodes
    places = [await tls(node.port) for node in nodes]
    ports = {place.port for place in places}
    for node, place in zip(nodes, places, strict=True):
        node.ask("CONFIG", "SET", "cluster-announce-port", str(place.port))

    def announced() -> bool:
        said = [node.ask("CLUSTER", "SLOTS") for node in nodes]
        return all({each[2][1] for each in slots} == ports for slots in said if isinstance(slots, list))

    await anyio.to_thread.run_sync(lambda: wait_until(announced, "all name the ports of TLS"))
    return f"rediss+cluster://127.0.0.1:{places[0].port}?ssl_ca_certs={certificate.authority}", places


async def test_a_stop(dispatcher: StartDispatcher, db: Any, server: Places) -> None:
    url, [through] = server
    async with dispatcher(redis_url=url) as running:
        await insert_events(db, 1)
        await running.tap.next(Settled, lambda event: event.sent == 1)
        await running.tap.next(Sampled, lambda event: event.stream_length is not None)
        through.stall()
        running.service.stop("the test")
        assert (await running.tap.next(Stopped)).cut_short is None
    assert running.service.exit_code == 0


async def test_a_stop_while_it_connects(dispatcher: StartDispatcher, server: Places) -> None:
    url, [through] = server
    through.stall()
    # Longer than a test may take: the stop waits for neither.
    async with dispatcher(redis_url=url, connect_timeout_ms=600_000, shutdown_grace_ms=600_000) as running:
        relay = running.service._engine.stream
        assert relay is not None
        await until(lambda: relay.sinks[0].gate._connecting.locked() and through.links, "the relay connects")
        running.service.stop("the test")
        assert (await running.tap.next(Stopped)).cut_short is None
    assert running.service.exit_code == 0


async def gives_up_connecting(place: Places, tap: Tap) -> None:
    url, proxies = place
    connection = RedisConnection(
        RedisTarget.parse(url), name="test", streams=(STREAM,), connect_timeout_s=600.0, on_lost=lambda why: None
    )
    gate = SinkGate(connection, Breaker(Backoff(1, 1), Random(1)), layout=Layout(STREAM), timeout_s=600.0, observe=tap)
    for through in proxies:
        through.stall()
    opened: list[bool] = []
    async with anyio.create_task_group() as lanes:
        for _ in range(2):  # one connects, the other waits for it
            lanes.start_soon(wait_open, gate, opened)
        await until(lambda: any(through.held_bytes("to_server") for through in proxies), "a server is spoken to")
        gate.stop()
    assert opened == [False, False]
    assert not gate.is_shut(), "a stop is no failure of Redis"
    assert tap.seen == []


async def wait_open(gate: SinkGate, opened: list[bool]) -> None:
    opened.append(await gate.wait_open())


async def test_a_connect_that_a_stop_ends(redis_url: str, proxy: StartProxy, tap: Tap) -> None:
    through = await proxy(redis_url)
    await gives_up_connecting((through.via(redis_url), [through]), tap)


async def test_a_connect_by_tls_that_a_stop_ends(server: Places, tap: Tap) -> None:
    await gives_up_connecting(server, tap)


async def test_a_question_to_sentinels_that_a_stop_ends(sentinels: Places, tap: Tap) -> None:
    await gives_up_connecting(sentinels, tap)


async def test_a_question_to_nodes_that_a_stop_ends(cluster: Places, tap: Tap) -> None:
    await gives_up_connecting(cluster, tap)


async def closes(place: Places) -> None:
    url, proxies = place
    client = open_client(url, TIMEOUT_S)
    assert await client.xlen(STREAM) == 0
    for through in proxies:
        through.stall()
    await client.aclose()


async def test_a_client(server: Places) -> None:
    await closes(server)


async def test_a_client_that_asks_sentinels(sentinels: Places) -> None:
    await closes(sentinels)


async def test_a_client_of_a_cluster(cluster: Places) -> None:
    await closes(cluster)


async def test_who_asks_sentinels(sentinels: Places) -> None:
    url, [primary, through] = sentinels
    through.make_filter = hears_no_end
    target = RedisTarget.parse(url).sentinels
    assert target is not None
    assert await named_primaries(target, TIMEOUT_S) == [("127.0.0.1", primary.port)]


async def test_who_asks_nodes(cluster: Places) -> None:
    url, places = cluster
    for place in places:
        place.make_filter = hears_no_end
    target = RedisTarget.parse(url).cluster
    assert target is not None
    assert (await read_topology(target, TIMEOUT_S)).uncovered == 0
    findings: Any = (await look_at_all(url, [STREAM], TIMEOUT_S, full_share=0.8, in_order=False))[0]
    assert "cluster-coverage" in {each.check for each in findings}
