"""The sidecar under more requests than it answers: they wait, then are refused; probes are not."""

import asyncio
from contextlib import AbstractAsyncContextManager

import aiohttp
import anyio
import pytest
from anyio.abc import SocketStream
from prometheus_client import CollectorRegistry

from dispatcher.sidecar import connections as door
from dispatcher.sidecar import rate_limit as pace
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.app import build
from tests.support.http import port_of, served


def site() -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    return served(build(lambda: None, CollectorRegistry(), guard=AccessControl(listens_on="127.0.0.1")))


async def status(client: aiohttp.ClientSession, path: str) -> int:
    async with client.get(path) as answer:
        return answer.status


@pytest.mark.promise("http")
async def test_who_asks_too_much_is_kept_waiting_and_probes_are_not(monkeypatch):
    monkeypatch.setattr(pace, "BURST", 40.0)
    monkeypatch.setattr(pace, "RATE", 0.001)
    monkeypatch.setattr(pace, "LONGEST_S", 0.01)
    async with site() as client:
        assert [await status(client, "/metrics") for _ in range(3)] == [200, 200, 429]
        async with client.get("/api/nothing") as answer:
            assert (answer.status, int(answer.headers["Retry-After"]) > 1) == (429, True)
            assert await answer.json() == {"error": "too many requests from this address"}
        assert await status(client, "/health") == await status(client, "/ready") == 200


async def answers(stream: SocketStream) -> bool:
    """Whether it is served; False: it was ended at once."""
    try:
        await stream.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        return (await stream.receive()).startswith(b"HTTP/1.1 200")
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return False


@pytest.mark.parametrize("limit", ["MOST_OF_ONE", "MOST_CONNECTIONS"])
async def test_there_are_only_so_many_connections(monkeypatch, limit):
    monkeypatch.setattr(door, limit, 2)
    async with site() as client:
        open_ones = [await anyio.connect_tcp("127.0.0.1", port_of(client)) for _ in range(3)]
        assert [await answers(stream) for stream in open_ones] == [True, True, False]
        for stream in open_ones:
            await stream.aclose()
        assert await status(client, "/health") == 200


async def test_a_host_with_a_whole_ipv6_network_is_one(monkeypatch):
    monkeypatch.setattr(door, "MOST_OF_ONE", 2)
    addresses: dict[int, str] = {}  # by the other side's port
    network = "2001:db8:0:1"

    def address_of(transport: asyncio.BaseTransport) -> str:
        port = transport.get_extra_info("peername")[1]
        return addresses.setdefault(port, f"{network}::{port:x}")

    monkeypatch.setattr(door, "address_of", address_of)
    async with site() as client:
        open_ones = [await anyio.connect_tcp("127.0.0.1", port_of(client)) for _ in range(3)]
        assert [await answers(stream) for stream in open_ones] == [True, True, False]
        network = "2001:db8:0:2"
        open_ones.append(await anyio.connect_tcp("127.0.0.1", port_of(client)))
        assert await answers(open_ones[-1])
        for stream in open_ones:
            await stream.aclose()


async def test_connections_one_after_another_are_too_many_as_well(monkeypatch):
    monkeypatch.setattr(pace, "BURST", 3 * pace.API_COST)
    monkeypatch.setattr(pace, "RATE", 0.001)
    served_ones = []
    async with site() as client:
        for _ in range(5):
            async with await anyio.connect_tcp("127.0.0.1", port_of(client)) as stream:
                served_ones.append(await answers(stream))
    assert served_ones == [True, True, True, False, False]


async def test_what_is_no_http_fills_no_log_and_learns_nothing(caplog):
    async with site() as client, await anyio.connect_tcp("127.0.0.1", port_of(client)) as stream:
        await stream.send(b"\x16\x03\x01 what is this\r\n\r\n")
        answer = b""
        try:
            while True:
                answer += await stream.receive()
        except anyio.EndOfStream:
            pass
    assert b" 400 " in answer.splitlines()[0]
    assert answer.endswith(b'{"error": "this is no HTTP request that is understood here"}')
    assert b"Server: dispatcher" in answer
    assert caplog.records == []
