"""Limits how many connections are open, in all and of one address, and answers what is no HTTP.

aiohttp has neither: without the limits one address could use up the file descriptors that Postgres and Redis need, or
all places of the others; and aiohttp answers what is no HTTP with its version, and a line in the log each time.
A flood of new connections is not refused here: before the request is read nobody knows whether it is a probe. Its
requests wait in `rate_limit.py`, and the connections wait with them.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

from dispatcher.sidecar.rate_limit import network_of

IDLE_S = 75.0  # between two requests

log = logging.getLogger(__name__)


def address_of(transport: asyncio.BaseTransport) -> str:
    """The address of the other side, without the port."""
    peer: Any = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Open at once. `of_one`: of one IPv4 address, or of one IPv6 /64; `address_of`: of a connection."""

    total: int = 256
    of_one: int = 64
    address_of: Callable[[asyncio.BaseTransport], str] = address_of


LIMITS = ConnectionLimits()


class ConnectionLimiter(asyncio.Protocol):
    """The protocol of a new connection, until it is handed to aiohttp or ended."""

    def __init__(self, server: web.Server, limits: ConnectionLimits = LIMITS) -> None:
        self._server = server
        self._limits = limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- for the type checker
        of = self._limits.address_of
        others = [network_of(of(one.transport)) for one in self._server.connections if one.transport is not None]
        if len(others) >= self._limits.total or others.count(network_of(of(transport))) >= self._limits.of_one:
            transport.abort()
            return
        handler = LimitedRequestHandler(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # as aiohttp itself does for "none"
            logger=log,
        )
        transport.set_protocol(handler)
        handler.connection_made(transport)


class LimitedRequestHandler(web.RequestHandler):
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
