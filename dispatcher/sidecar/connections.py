"""What a connection meets first: it is served, or ended at once when there are too many.

And what is said to one that does not speak HTTP: little, and nothing in the log, which anybody could fill otherwise.
"""

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

from dispatcher.sidecar.rate_limit import API_COST, RateLimiter, network_of

MOST_CONNECTIONS, MOST_OF_ONE = 256, 64  # of one address, or of one IPv6 /64
IDLE_S = 75.0  # between two requests

log = logging.getLogger(__name__)


class ConnectionLimiter(asyncio.Protocol):
    """A connection until it is known what becomes of it."""

    def __init__(self, server: web.Server, pace: RateLimiter) -> None:
        self._server = server
        self._pace = pace

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it on, or end it."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- for the type checker
        network = network_of(address_of(transport))
        others = [
            network_of(address_of(one.transport)) for one in self._server.connections if one.transport is not None
        ]
        crowded = len(others) >= MOST_CONNECTIONS or others.count(network) >= MOST_OF_ONE
        if crowded or self._pace.wait_s(network, "connection", API_COST) > 0:
            transport.abort()
            return
        speaker = LimitedRequestHandler(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # as aiohttp itself does for "none"
            logger=log,
        )
        transport.set_protocol(speaker)
        speaker.connection_made(transport)


class LimitedRequestHandler(web.RequestHandler):
    """Speaks HTTP on one connection, and to who does not says so."""

    __slots__ = ()

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


def address_of(transport: asyncio.BaseTransport) -> str:
    """Of the other side."""
    peer: Any = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
