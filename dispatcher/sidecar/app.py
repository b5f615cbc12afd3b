"""The HTTP sidecar: liveness, readiness, metrics. Plain JSON errors, no access log, nothing about our versions."""

import errno
import socket
from collections.abc import Awaitable, Callable

import anyio
from aiohttp import web
from anyio.abc import TaskStatus
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from dispatcher.core.errors import Misconfigured

MAX_BODY_BYTES = 64 * 1024
SHUTDOWN_S = 2.0  # what a request in flight gets at the end

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(readiness: Callable[[], str | None], registry: CollectorRegistry) -> web.Application:
    """The application. `readiness` gives the reason not to be ready, or None."""

    async def health(request: web.Request) -> web.Response:
        # Liveness: the event loop turns. A server that is down is no reason to restart the dispatcher.
        return web.json_response({"status": "ok"})

    async def ready(request: web.Request) -> web.Response:
        reason = readiness()
        if reason is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready", "reason": reason}, status=503)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    app = web.Application(middlewares=[_errors_as_json], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(_headers)
    app.add_routes([web.get("/health", health), web.get("/ready", ready), web.get("/metrics", metrics)])
    return app


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as answer:
        if answer.status < 400:
            raise
        words = {
            404: f"there is nothing at {request.path}",
            405: f"{request.method} is not allowed at {request.path}",
            413: f"the body is larger than {MAX_BODY_BYTES} bytes",
        }
        error = web.json_response({"error": words.get(answer.status, answer.reason)}, status=answer.status)
        if "Allow" in answer.headers:
            error.headers["Allow"] = answer.headers["Allow"]
        return error


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "dispatcher"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


async def serve(
    app: web.Application, host: str, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; started with the port, which matters for port 0. Raises Misconfigured."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:
            raise _cannot_listen(host, port, error) from None
        task_status.started(runner.addresses[0][1])
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


def _cannot_listen(host: str, port: int, error: Exception) -> Misconfigured:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return Misconfigured(
            f"port {port} on {host} is taken; set DISPATCH_HTTP_PORT or --http-port, or --disable-http"
        )
    if code in (errno.EACCES, errno.EPERM):
        return Misconfigured(
            f"port {port} on {host} may not be opened by this user; set DISPATCH_HTTP_PORT or --http-port above 1023"
        )
    if code == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return Misconfigured(
            f"{host} is not an address of this machine; set DISPATCH_HTTP_HOST or --http-host (0.0.0.0 is every one)"
        )
    return Misconfigured(
        f"cannot listen on {host}:{port} ({type(error).__name__}); set DISPATCH_HTTP_HOST and DISPATCH_HTTP_PORT"
    )
