"""Limits how many connections are open, how long each may take, and answers what is no HTTP.

aiohttp has none of it: without the limits one address could use up the file descriptors that Postgres and Redis need,
or, with requests that it never finishes, all places of the others; and aiohttp answers what is no HTTP with its
version, and a line in the log each time. A flood of new connections is not refused here: before the request is read
nobody knows whether it is a probe. Its requests wait in `rate_limit.py`, and the connections wait with them.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import anyio
from aiohttp import web
from aiohttp.web_request import BaseRequest

from dispatcher.sidecar.errors import HttpHandler, Refusal
from dispatcher.sidecar.rate_limit import PROBES, network_of

IDLE_S = 75.0  # between two requests

log = logging.getLogger(__name__)


def address_of(transport: asyncio.BaseTransport) -> str:
    """The address of the other side, without the port."""
    peer: Any = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Open at once. `of_one`: of one IPv4 address, or of one IPv6 /64; `address_of`: of a connection.

    `spare`: beyond both, for probes only. In seconds: `head_s` for the head of a request, `request_s` for all of it and
    its answer; one that takes longer than `slow_s` goes when its place is needed.
    """

    total: int = 256
    of_one: int = 64
    spare: int = 16
    head_s: float = 5.0
    request_s: float = 30.0
    slow_s: float = 5.0
    address_of: Callable[[asyncio.BaseTransport], str] = address_of


LIMITS = ConnectionLimits()


class ConnectionLimiter(asyncio.Protocol):
    """The protocol of a new connection, until it is handed to aiohttp or ended."""

    def __init__(self, server: web.Server, limits: ConnectionLimits = LIMITS) -> None:
        self._server = server
        self._limits = limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- for the type checker
        limits, of = self._limits, self._limits.address_of
        network = network_of(of(transport))
        others = open_connections(self._server)
        of_one = [one for one in others if one.transport is not None and network_of(of(one.transport)) == network]
        full = (len(of_one) >= limits.of_one and not _make_room(of_one, limits)) or (
            len(others) >= limits.total and not _make_room(others, limits)
        )
        if full:
            spare = [one for one in others if one.spare]
            if len(spare) >= limits.spare and not _make_room(spare, limits):
                transport.abort()
                return
        handler = LimitedRequestHandler(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # as aiohttp itself does for "none"
            logger=log,
        )
        handler.spare = full
        transport.set_protocol(handler)
        handler.connection_made(transport)


class LimitedRequestHandler(web.RequestHandler):
    """One connection. `spare`: it has no place of its own, and asks for probes only."""

    __slots__ = ("begun_at", "quiet_since", "spare")
    spare: bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By the loop's clock: since when it has asked for nothing, and when what it is asking now began, if it is.
        self.quiet_since = self._loop.time()
        self.begun_at: float | None = self.quiet_since  # it opened the connection to ask
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.begun_at is None:
            self.begun_at = self._loop.time()
        super().data_received(data)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        self.quiet_since = self._loop.time()
        self.begun_at = self.quiet_since if self._messages else None
        return finished

    @property
    def asks(self) -> bool:
        """Whether there is a request, read or answered; not only a part of its head."""
        return self._request_in_progress or bool(self._messages)

    def takes_too_long(self, head_s: float, request_s: float) -> bool:
        if self.begun_at is None:
            return False  # idle between two requests: aiohttp ends that
        return self._loop.time() - self.begun_at > (request_s if self.asks else head_s)

    def end(self) -> None:
        """Close the connection now, whatever is in its buffers."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()
        self.force_close()

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Not where the rest of a body, which nobody needs, is not what its head says: anybody could fill the log."""
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **options)

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what never became a request; errors of requests are answered by the application."""
        if status >= 500:
            log.error("a connection failed: %s", exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun")
        error = "this is no HTTP request that is understood here" if status < 500 else "this should not have happened"
        answer = web.json_response({"error": error}, status=status, headers={"Server": "dispatcher"})
        answer.force_close()
        return answer


def open_connections(server: web.Server) -> list[LimitedRequestHandler]:
    return [one for one in server.connections if isinstance(one, LimitedRequestHandler) and one.transport is not None]


def _make_room(connections: Collection[LimitedRequestHandler], limits: ConnectionLimits) -> bool:
    """End the one that has asked for nothing longest, else one whose request is slow. False: all are being answered."""
    quiet = [one for one in connections if not one.asks]
    slow = [one for one in connections if one.asks and one.takes_too_long(limits.slow_s, limits.slow_s)]
    found = min(quiet or slow, key=lambda one: one.quiet_since, default=None)
    if found is not None:
        found.end()
    return found is not None


async def end_slow_ones(server: web.Server, limits: ConnectionLimits) -> None:
    """Until cancelled: close connections that do not finish their head, their body, or do not read their answer."""
    while True:
        await anyio.sleep(min(1.0, limits.head_s))
        for one in open_connections(server):
            if one.takes_too_long(limits.head_s, limits.request_s):
                one.end()


@web.middleware
async def only_probes_on_spare_ones(request: web.Request, handler: HttpHandler) -> web.StreamResponse:
    """Refuse other requests of an address that has as many connections as it may, and of all when there are too many.

    Raises Refusal."""
    if not getattr(request.protocol, "spare", False):
        return await handler(request)
    if request.path not in PROBES:
        raise Refusal(429, "too many connections", {"Retry-After": "1", "Connection": "close"})
    answer = await handler(request)
    answer.force_close()
    return answer
