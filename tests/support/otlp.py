"""Receives traces as a collector of OpenTelemetry does: OTLP over HTTP, in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.support.waiting import until

PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Span:
    """One that was exported. Ids are hexadecimal."""

    name: str
    kind: int  # 3 CLIENT, 5 CONSUMER
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]  # ids of spans
    attributes: dict[str, str]
    service: str
    failed: bool
    seconds: float


@dataclass(slots=True)
class Collector:
    """What came, and what is answered: an HTTP status, or None to never answer."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: bytes = b""
    asked: int = 0
    answers: int | None = 200

    async def named(self, name: str, count: int = 1) -> list[Span]:
        """Wait for so many spans of this name."""
        await until(lambda: len(self._named(name)) >= count, f"{count} spans {name!r} come", PATIENCE_S)
        return self._named(name)

    def _named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        """Read one request."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.raw += body
        request: Any = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            about = _texts(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [
                    Span(
                        each.name,
                        each.kind,
                        each.trace_id.hex(),
                        each.span_id.hex(),
                        each.parent_span_id.hex(),
                        [link.span_id.hex() for link in each.links],
                        _texts(each.attributes),
                        about["service.name"],
                        each.status.code == 2,
                        (each.end_time_unix_nano - each.start_time_unix_nano) / 1e9,
                    )
                    for each in scope.spans
                ]


def _texts(attributes: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a port of its own."""
    found, never = Collector(), asyncio.Event()

    async def traces(request: web.Request) -> web.Response:
        body = await request.read()
        found.asked += 1
        if found.answers is None:
            await never.wait()
        if found.answers == 200:
            found.take(body)
        return web.Response(status=found.answers or 500)

    app = web.Application()
    app.router.add_post("/v1/traces", traces)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        never.set()
        await runner.cleanup()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as found:
        yield found
