"""Errors as answers: one JSON object with `error`, which names the thing and the remedy."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

MAX_BODY_BYTES = 64 * 1024

log = logging.getLogger(__name__)

HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(Exception):
    """Raised by a handler or a middleware to answer with an error. `error` is shown as it stands: no secret in it."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = headers or {}


@web.middleware
async def errors_as_json(request: web.Request, handler: HttpHandler) -> web.StreamResponse:
    """Outermost: turns refusals and aiohttp's own errors into JSON."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return web.json_response({"error": refusal.error}, status=refusal.status, headers=refusal.headers)
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
    except Exception as error:
        log.exception("%s %s failed: %s", request.method, request.path, error)
        return web.json_response({"error": "this should not have happened; the log says more"}, status=500)
