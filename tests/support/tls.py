"""TLS before a Redis that knows none, and a certificate for it."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener


@pytest.fixture
def certificate(server_folder: Path) -> Path:
    """A certificate for localhost; its key lies beside it as .key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate with")
    path = server_folder / "tls.crt"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return path


@asynccontextmanager
async def behind_tls(redis_url: str, certificate: Path) -> AsyncIterator[int]:
    """A port where TLS ends and the server begins; not every Valkey is built with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
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

    tls = TLSListener(listener, context, standard_compatible=False)
    async with tls, anyio.create_task_group() as serving:
        serving.start_soon(tls.serve, relay)
        yield port
        serving.cancel_scope.cancel()
