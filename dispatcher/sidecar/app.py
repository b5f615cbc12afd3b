"""The HTTP sidecar: liveness, readiness, metrics, and the routes given to it (dead-letter API, console).

Plain JSON errors, no access log, no cookies, no CORS, nothing about our versions.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable

import anyio
from aiohttp import web
from aiohttp.typedefs import Middleware
from anyio.abc import TaskStatus
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from dispatcher.core.errors import Misconfigured
from dispatcher.infra.forks import not_for_children
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.connections import LIMITS as CONNECTION_LIMITS
from dispatcher.sidecar.connections import (
    ConnectionLimiter,
    ConnectionLimits,
    end_slow_ones,
    only_probes_on_spare_ones,
)
from dispatcher.sidecar.errors import MAX_BODY_BYTES, errors_as_json
from dispatcher.sidecar.rate_limit import LIMITS as RATE_LIMITS
from dispatcher.sidecar.rate_limit import RateLimiter, RateLimits
from dispatcher.sidecar.sockets import listening

BACKLOG = 32  # connections accepted in one iteration of the event loop: a storm must not make it long
SHUTDOWN_S = 2.0  # what a request in flight gets at the end

# An answer that sets one of them itself keeps its own: the console's page needs a wider policy.
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def build(
    readiness: Callable[[], str | None],
    metrics_registry: CollectorRegistry,
    *,
    guard: AccessControl | None = None,
    routes: Iterable[web.AbstractRouteDef] = (),
    missing: Callable[[], str | None] = lambda: None,
    rate: RateLimits = RATE_LIMITS,
) -> web.Application:
    """The application. `readiness` gives the reason not to be ready, or None; `guard`: by default nobody has access.

    `missing`: what a dispatcher that is ready goes without, in words. `routes`: of the API and the console, under /api,
    at / and under /console: the guard knows those paths.
    """

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics_registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return _application(
        [*_probe_routes(readiness, missing), web.get("/metrics", metrics), *routes],
        [only_probes_on_spare_ones, RateLimiter(rate).middleware, (guard or AccessControl()).middleware],
    )


def build_probes(
    readiness: Callable[[], str | None],
    *,
    missing: Callable[[], str | None] = lambda: None,
) -> web.Application:
    """/health and /ready alone, for a port of their own: whoever floods the other one takes none of its places."""
    return _application(
        _probe_routes(readiness, missing), [only_probes_on_spare_ones, RateLimiter(RATE_LIMITS).middleware]
    )


def _application(routes: Iterable[web.AbstractRouteDef], middlewares: Iterable[Middleware]) -> web.Application:
    app = web.Application(middlewares=(errors_as_json, *middlewares), client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(_headers)
    app.add_routes(routes)
    return app


def _probe_routes(readiness: Callable[[], str | None], missing: Callable[[], str | None]) -> list[web.RouteDef]:
    async def health(request: web.Request) -> web.Response:
        # Liveness: the event loop runs. A server that is down is no reason to restart the dispatcher.
        return web.json_response({"status": "ok"})

    async def ready(request: web.Request) -> web.Response:
        reason = readiness()
        if reason is None:
            without = missing()
            return web.json_response({"status": "ready"} | ({"missing": without} if without else {}))
        if reason.startswith("disabled") and "disabled" in request.query.getall("exclude", []):
            # The kill switch has to roll out: Kubernetes replaces no further pod until the new one is ready.
            return web.json_response({"status": "ready", "excluded": reason})
        return web.json_response({"status": "not ready", "reason": reason}, status=503)

    return [web.get("/health", health), web.get("/ready", ready)]


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "dispatcher"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    limits: ConnectionLimits = CONNECTION_LIMITS,
    port_setting: str = "http",
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; started with the port, which matters for port 0. Raises Misconfigured.

    `port_setting`: "http" or "probe", the setting that an error names.
    """
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
    listeners: list[asyncio.Server] = []
    try:
        await runner.setup()
        try:
            http_server = runner.server
            assert http_server is not None  # noqa: S101 -- for the type checker
            loop = asyncio.get_running_loop()
            listeners += [
                await loop.create_server(lambda: ConnectionLimiter(http_server, limits), sock=each, backlog=BACKLOG)
                for each in await listening(host, port, BACKLOG)
            ]
        except (OSError, OverflowError) as error:
            raise _cannot_listen(host, port, port_setting, error) from None
        for listener in listeners:
            not_for_children(listener, lambda ours: [each.fileno() for each in ours.sockets])
        task_status.started(listeners[0].sockets[0].getsockname()[1])
        await end_slow_ones(http_server, limits)
    finally:
        with anyio.CancelScope(shield=True):
            # asyncio forgets, and does not close, what it accepted in the turn of the loop before the listener closes.
            for one in [each for listener in listeners for each in listener.sockets]:
                asyncio.get_running_loop().remove_reader(one)
            await asyncio.sleep(0)
            for listener in listeners:
                listener.close()
            await runner.cleanup()


def _cannot_listen(host: str, port: int, port_setting: str, error: Exception) -> Misconfigured:
    code = error.errno if isinstance(error, OSError) else None
    remedy = f"set DISPATCH_{port_setting.upper()}_PORT or --{port_setting}-port"
    if code == errno.EADDRINUSE:
        return Misconfigured(
            f"port {port} on {host} is taken; {remedy}" + (", or --disable-http" if port_setting == "http" else "")
        )
    if code in (errno.EACCES, errno.EPERM):
        return Misconfigured(f"port {port} on {host} may not be opened by this user; {remedy} above 1023")
    if code == socket.EAI_AGAIN:  # no thread is left, or the name server does not answer
        return Misconfigured(f"cannot listen on {host}:{port}: {error.args[-1]}")
    if code == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return Misconfigured(
            f"{host} is not an address of this machine; set DISPATCH_HTTP_HOST or --http-host (:: is every one)"
        )
    return Misconfigured(
        f"cannot listen on {host}:{port} ({type(error).__name__}); set DISPATCH_HTTP_HOST and "
        f"DISPATCH_{port_setting.upper()}_PORT"
    )
