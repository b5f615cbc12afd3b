"""The sidecar under more requests than it answers: they wait, then are refused; probes are not."""

import asyncio
import socket
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import aiohttp
import aiohttp.web
import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from prometheus_client import CollectorRegistry

from dispatcher.core.events import SidecarUp
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.app import build, build_probes
from dispatcher.sidecar.connections import LIMITS, ConnectionLimits
from dispatcher.sidecar.rate_limit import API_COST, RateLimits
from dispatcher.sidecar.rate_limit import LIMITS as RATE
from tests.support.child import StartCli
from tests.support.http import port_of, served
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes, until


def site(
    rate: RateLimits = RATE, limits: ConnectionLimits = LIMITS
) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    guard = AccessControl(listens_on="127.0.0.1")
    return served(build(lambda: None, CollectorRegistry(), guard=guard, rate=rate), limits=limits)


async def status(client: aiohttp.ClientSession, path: str) -> int:
    async with client.get(path) as answer:
        return answer.status


@pytest.mark.promise("http")
async def test_who_asks_too_much_is_kept_waiting_and_probes_are_not():
    async with site(RateLimits(rate=0.001, burst=40.0, longest_s=0.01)) as client:
        assert [await status(client, "/metrics") for _ in range(3)] == [200, 200, 429]
        async with client.get("/api/nothing") as answer:
            assert (answer.status, int(answer.headers["Retry-After"]) > 1) == (429, True)
            assert await answer.json() == {"error": "too many requests from this address"}
        assert await status(client, "/health") == await status(client, "/ready") == 200


async def answers(stream: SocketStream, path: str = "/health") -> bool:
    """Whether it is served; False: it was ended at once."""
    try:
        await stream.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return (await stream.receive()).startswith(b"HTTP/1.1 200")
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return False


@pytest.mark.promise("http")
@pytest.mark.parametrize("limits", [ConnectionLimits(of_one=2), ConnectionLimits(total=2)])
@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost"])
async def test_who_has_asked_for_nothing_longest_makes_room(limits: ConnectionLimits, said: bytes) -> None:
    async with site(limits=limits) as client:
        open_ones = []
        for _ in range(4):
            stream = await anyio.connect_tcp("127.0.0.1", port_of(client))
            await stream.send(said)
            open_ones.append(stream)
            assert await status(client, "/health") == 200  # by a connection of its own
            await client.connector.close()  # type: ignore[union-attr]
            client._connector = aiohttp.TCPConnector()
        ended = [await ends(stream) for stream in open_ones[:2]]
        assert ended == [True, True]
        for stream in open_ones:
            await stream.aclose()


async def ends(stream: SocketStream, said: bytes = b"") -> bool:
    """Whether the server ends it without an answer, perhaps before all was sent."""
    try:
        if said:
            await stream.send(said)
        await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return True
    return False


class Slow:
    """A page whose answer takes until somebody allows it."""

    def __init__(self) -> None:
        self.asked = 0
        self.allowed = anyio.Event()

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.asked += 1
        await self.allowed.wait()
        return aiohttp.web.Response(text="slow")


@pytest.mark.promise("http")
@pytest.mark.parametrize("limits", [ConnectionLimits(of_one=2), ConnectionLimits(total=2)])
async def test_probes_are_answered_where_all_connections_are_in_use(limits: ConnectionLimits) -> None:
    slow = Slow()
    site = build(lambda: None, CollectorRegistry(), routes=[aiohttp.web.get("/slow", slow.answer)])
    async with served(site, limits=limits) as client, anyio.create_task_group() as asking:
        answered: list[int] = []

        async def ask() -> None:
            answered.append(await status(client, "/slow"))

        for _ in range(2):
            asking.start_soon(ask)
        await becomes(lambda: slow.asked, 2)
        assert [await status(client, path) for path in ("/health", "/ready")] == [200, 200]
        async with client.get("/slow") as refused:
            assert (refused.status, await refused.json()) == (429, {"error": "too many connections"})
            assert refused.headers["Retry-After"] == "1"
        slow.allowed.set()
        await becomes(lambda: answered, [200, 200])
        assert slow.asked == 2
        assert await status(client, "/slow") == 200


@pytest.mark.promise("http")
async def test_slow_requests_make_room_and_then_end() -> None:
    """Heads that never end, bodies that never come, answers that nobody reads."""
    slow = Slow()
    routes = [aiohttp.web.get("/slow", slow.answer), aiohttp.web.post("/slow", slow.answer)]
    limits = ConnectionLimits(of_one=1, spare=1, head_s=0.05, request_s=0.2, slow_s=0.1)
    async with served(build(lambda: None, CollectorRegistry(), routes=routes), limits=limits) as client:
        for said in (
            b"",
            b"GET /slow HTTP/1.1\r\nHost: x\r\n",
            b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
        ):
            async with await anyio.connect_tcp("127.0.0.1", port_of(client)) as stream:
                assert await ends(stream, said)


@pytest.mark.promise("http")
async def test_an_answer_that_nobody_reads_ends() -> None:
    async def long(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(body=b"x" * 50_000_000)

    limits = ConnectionLimits(head_s=0.05, request_s=0.2)
    async with (
        served(
            build(lambda: None, CollectorRegistry(), routes=[aiohttp.web.get("/long", long)]), limits=limits
        ) as client,
        await anyio.connect_tcp("127.0.0.1", port_of(client)) as stream,
    ):
        await stream.send(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: connections_to(port_of(client)) == 0, "the connection is closed by the server")


def connections_to(port: int) -> int:
    """Established ones, of the server's side."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        found += int(local.rpartition(":")[2], 16) == port and state == "01"
    return found


async def test_a_host_with_a_whole_ipv6_network_is_one() -> None:
    slow = Slow()
    addresses: dict[int, str] = {}  # by the other side's port
    network = "2001:db8:0:1"

    def address_of(transport: asyncio.BaseTransport) -> str:
        port = transport.get_extra_info("peername")[1]
        return addresses.setdefault(port, f"{network}::{port:x}")

    limits = ConnectionLimits(of_one=2, address_of=address_of)
    site = build(lambda: None, CollectorRegistry(), routes=[aiohttp.web.get("/slow", slow.answer)])
    async with served(site, limits=limits) as client, anyio.create_task_group() as asking:
        for _ in range(2):
            asking.start_soon(status, client, "/slow")
        await becomes(lambda: slow.asked, 2)
        assert await status(client, "/slow") == 429
        network = "2001:db8:0:2"
        asking.start_soon(status, client, "/slow")
        await becomes(lambda: slow.asked, 3)
        slow.allowed.set()


@pytest.mark.promise("http")
async def test_probes_are_answered_while_their_address_floods_the_api_with_new_connections():
    """The kubelet probes by new connections, and behind NAT a flood may come from its address."""
    async with site(RateLimits(rate=100.0, burst=100.0)) as client:
        port = port_of(client)
        asked: list[int] = []
        burst_is_used_up = anyio.Event()  # from then on the flood waits

        async def flood() -> None:
            while True:
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(b"GET /api/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    asked.append(int((await stream.receive())[9:12]))  # an end without an answer would raise
                    if len(asked) >= 25:
                        burst_is_used_up.set()

        async with anyio.create_task_group() as flooding:
            began = anyio.current_time()
            for _ in range(16):
                flooding.start_soon(flood)
            await burst_is_used_up.wait()
            for probe in ("/health", "/ready") * 15:
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    assert await answers(stream, probe)
            flooding.cancel_scope.cancel()
        assert set(asked) == {404}
        assert len(asked) <= (100.0 + 100.0 * (anyio.current_time() - began)) / API_COST + 1


async def answer_to(request: bytes) -> bytes:
    """All that comes back until the end of the connection."""
    async with site() as client, await anyio.connect_tcp("127.0.0.1", port_of(client)) as stream:
        await stream.send(request)
        answer = b""
        try:
            while True:
                answer += await stream.receive()
        except anyio.EndOfStream:
            return answer


async def test_what_is_no_http_fills_no_log_and_learns_nothing(caplog):
    answer = await answer_to(b"\x16\x03\x01 what is this\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    assert answer.endswith(b'{"error": "this is no HTTP request that is understood here"}')
    assert b"Server: dispatcher" in answer
    assert caplog.records == []


async def test_a_body_that_is_not_what_its_head_says_fills_no_log(caplog):
    head = b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\n"
    answer = await answer_to(head + b"no gzip")
    assert b" 405 " in answer.splitlines()[0]
    assert caplog.records == []


@pytest.mark.promise("http")
async def test_half_requests_of_four_addresses_shut_out_nobody() -> None:
    """As many as there are places, by the limits as they are."""
    async with site() as client, AsyncExitStack() as stack:
        port = port_of(client)
        for number in range(LIMITS.total):
            address = f"127.0.0.{2 + number % 4}"
            stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port, local_host=address))
            await stream.send(b"GET /health HTTP/1.1\r\nHo")
        for address in ("127.0.0.2", "127.0.0.9"):
            async with await anyio.connect_tcp("127.0.0.1", port, local_host=address) as stream:
                assert await answers(stream)


# Eight threads in a process of their own, each a new connection for each request, until its stdin is closed; it prints
# how many were answered with which code, and how many ended without an answer.
FLOOD = """
import collections, http.client, sys, threading
port, path = int(sys.argv[1]), sys.argv[2]
seen = collections.Counter()
over = threading.Event()
def flood():
    while not over.is_set():
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            asking.request("GET", path, headers={"Host": "localhost"})
            seen[asking.getresponse().status] += 1
        except OSError:
            seen["no answer"] += 1
        finally:
            asking.close()
threads = [threading.Thread(target=flood) for _ in range(8)]
for each in threads: each.start()
print("begun", flush=True)
sys.stdin.read()
over.set()
for each in threads: each.join()
print(dict(seen))
"""


@pytest.mark.promise("http")
@pytest.mark.parametrize("own_port", [False, True])
async def test_every_probe_is_answered_beside_eight_threads_of_short_connections(
    dispatcher: StartDispatcher, own_port: bool
) -> None:
    """On the port of the sidecar, and on one of their own."""
    async with dispatcher(http_enabled=True, probe_port=0 if own_port else None) as running:
        [up] = running.tap.all(SidecarUp)
        command = [sys.executable, "-c", FLOOD, str(up.port), "/api/overview"]
        async with await anyio.open_process(command, stderr=None) as flood, aiohttp.ClientSession() as asking:
            assert flood.stdin is not None
            assert flood.stdout is not None
            lines = BufferedByteReceiveStream(flood.stdout)
            assert await lines.receive_until(b"\n", 100) == b"begun"
            for probe in ("/health", "/ready") * 15:
                url = f"http://127.0.0.1:{up.probe_port or up.port}{probe}"
                with anyio.fail_after(60):  # the flood goes on until all are answered
                    async with asking.get(url, headers={"Connection": "close"}) as answer:
                        assert answer.status == 200
            await flood.stdin.aclose()
            said = (await lines.receive_until(b"\n", 1000)).decode()
        assert "200: " in said
        assert "no answer" not in said


async def test_a_port_of_their_own_has_probes_only_and_places_that_no_flood_takes() -> None:
    slow = Slow()
    site = build(lambda: None, CollectorRegistry(), routes=[aiohttp.web.get("/slow", slow.answer)])
    limits = ConnectionLimits(of_one=2, spare=1)
    async with (
        served(site, limits=limits) as client,
        served(build_probes(lambda: "redis: away"), limits=limits) as probes,
        AsyncExitStack() as stack,
        anyio.create_task_group() as asking,
    ):
        for _ in range(2):
            asking.start_soon(status, client, "/slow")
        await becomes(lambda: slow.asked, 2)
        half = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port_of(client)))
        await half.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")  # takes the spare place until it is refused
        assert [await status(probes, path) for path in ("/health", "/ready")] == [200, 503]
        assert [await status(probes, path) for path in ("/metrics", "/", "/api/overview")] == [404, 404, 404]
        slow.allowed.set()


async def test_a_port_of_the_probes_that_is_taken_is_named(cli: StartCli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
        child = await cli("run", env=env | {"DISPATCH_PROBE_PORT": str(port)})
        assert await child.wait() == 2
    assert child.lines[-1] == (
        f"dispatcher: port {port} on 127.0.0.1 is taken; set DISPATCH_PROBE_PORT or --probe-port"
    )
