"""TLS before a Redis that knows none, and certificates for servers."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSStream


class Certificate(NamedTuple):
    """Files in PEM: what a server shows, the key to it, and the authority that signed it."""

    shown: Path
    key: Path
    authority: Path


def make_certificate(folder: Path, *names: str) -> Certificate:
    """A certificate for hosts or addresses of these names, from an authority of its own."""
    made = Certificate(folder / "server.crt", folder / "server.key", folder / "ca.crt")
    authority = trustme.CA()
    signed = authority.issue_cert(*names)
    authority.cert_pem.write_to_path(made.authority)
    signed.private_key_pem.write_to_path(made.key)
    [shown] = signed.cert_chain_pems
    shown.write_to_path(made.shown)
    return made


@pytest.fixture
def certificate(server_folder: Path) -> Certificate:
    """For localhost."""
    return make_certificate(server_folder, "localhost", "127.0.0.1")


@asynccontextmanager
async def behind_tls(redis_url: str, certificate: Certificate, *, plain: bool = False) -> AsyncIterator[int]:
    """A port where TLS ends and the server begins; not every Valkey is built with TLS.

    `plain`: who speaks no TLS is let through too, as the sentinels that watch the server.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.shown, certificate.key)
    upstream = urlsplit(redis_url)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610

    async def copy(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in source:
                await target.send(data)
            await target.aclose()

    async def relay(client: anyio.abc.ByteStream) -> None:
        server = await anyio.connect_tcp(str(upstream.hostname), upstream.port or 6379)
        async with client, server, anyio.create_task_group() as both:
            both.start_soon(copy, client, server)
            both.start_soon(copy, server, client)

    async def serve(client: anyio.abc.ByteStream) -> None:
        async with client:  # also where the end comes in the midst of the handshake
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                first = await client.receive()
                begun: anyio.abc.ByteStream = _Begun(first, client)
                if not plain or first.startswith(b"\x16"):  # a TLS handshake
                    begun = await TLSStream.wrap(
                        begun, server_side=True, ssl_context=context, standard_compatible=False
                    )
                await relay(begun)

    async with listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, serve)
        yield port
        serving.cancel_scope.cancel()


class _Begun(anyio.abc.ByteStream):
    """A stream whose first bytes were read already."""

    def __init__(self, first: bytes, rest: anyio.abc.ByteStream) -> None:
        self._first, self._rest = first, rest

    async def receive(self, max_bytes: int = 65536) -> bytes:
        first, self._first = self._first, b""
        return first or await self._rest.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._rest.send(item)

    async def send_eof(self) -> None:
        await self._rest.send_eof()

    async def aclose(self) -> None:
        await self._rest.aclose()
