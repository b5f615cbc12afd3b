"""`python -m chat.app`: the gateway as a process. Reads DATABASE_URL, REDIS_URL, CHAT_PORT, and of the dispatchers'
settings DISPATCH_STREAM_NAME and DISPATCH_STREAM_SHARDS.

There is no login: who may read and write in a room is for your application to say, in `same_site` and `room_of`.
"""

import asyncio
import logging
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import redis.asyncio
from aiohttp import web
from dispatcher.client import is_outage

from chat import messages
from chat.gateway import Gateway

log = logging.getLogger("chat")
PAGES = Path(__file__).with_name("page")
GATEWAY = web.AppKey("gateway", Gateway)
ROOM = re.compile(r"[\w .-]{1,40}")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def room_of(request: web.Request) -> str:
    """The room in the address, or 404."""
    room: str = request.match_info["room"]
    if not ROOM.fullmatch(room):
        raise web.HTTPNotFound(text="a room is named by up to 40 letters, digits, spaces, dots and dashes")
    return room


@web.middleware
async def same_site(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Another site's page must not write, nor read through a WebSocket, which no browser holds it from."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise web.HTTPForbidden(text="this page is of another site")
    return await handler(request)


@web.middleware
async def outages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """While the database is away: 503, and the browser tries again."""
    try:
        return await handler(request)
    except Exception as error:
        if isinstance(error, web.HTTPException) or not is_outage(error):
            raise
        log.warning("the database is away: %s", type(error).__name__)
        raise web.HTTPServiceUnavailable(text="the database is away", headers={"Retry-After": "1"}) from None


async def take(request: web.Request) -> web.Response:
    """A message: `key` (a UUID of the sender's), `author`, `body`. The same key again is the same message."""
    room = room_of(request)
    try:
        given = await request.json()
        key, texts = uuid.UUID(given["key"]), {name: str(given[name]).strip() for name in ("author", "body")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise web.HTTPBadRequest(text="a message is a JSON object with key (a UUID), author and body") from None
    for name, text in texts.items():
        if (
            not 0 < len(text) <= messages.LONGEST[name]
            or "\0" in text
            or text != text.encode(errors="replace").decode()
        ):
            raise web.HTTPBadRequest(text=f"{name} must be 1 to {messages.LONGEST[name]} characters, without NUL")
    number = await messages.post(request.app[GATEWAY].pool, room, key, **texts)
    return web.json_response({"number": number}, status=201)


async def earlier(request: web.Request) -> web.Response:
    """The messages of a room before a number."""
    try:
        before = int(request.query.get("before", 2**62))
    except ValueError:
        raise web.HTTPBadRequest(text="before is not a number") from None
    listed = await messages.read(request.app[GATEWAY].pool, room_of(request), before=min(max(before, 0), 2**62))
    return web.json_response([message.plain() for message in listed])


async def connect(request: web.Request) -> web.WebSocketResponse:
    """The messages of a room as they come; `after`: those after the entry with this id."""
    return await request.app[GATEWAY].serve(request, room_of(request), request.query.get("after", ""))


async def page(request: web.Request) -> web.FileResponse:
    """A file of the page."""
    file = PAGES / (request.match_info.get("file") or "index.html")
    if not file.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(file, headers=HEADERS)


async def running(app: web.Application) -> AsyncIterator[None]:
    """What lives as long as the application: connections, the reader of the stream."""
    stream = os.environ.get("DISPATCH_STREAM_NAME", "sanctum:messages")
    shards = int(os.environ.get("DISPATCH_STREAM_SHARDS", "1"))
    async with (
        asyncpg.create_pool(
            os.environ["DATABASE_URL"], min_size=1, max_size=10, timeout=10, command_timeout=10
        ) as pool,
        redis.asyncio.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=10, decode_responses=True) as client,
    ):
        await messages.create_tables(pool)
        gateway = app[GATEWAY] = Gateway(pool, client, stream, shards)
        tasks = [await gateway.start(), asyncio.create_task(gateway.talk(), name="talk")]
        for task in tasks:
            task.add_done_callback(give_up)
        yield
        for task in tasks:
            task.remove_done_callback(give_up)
            task.cancel()
        await asyncio.wait(tasks)


def give_up(task: "asyncio.Task[None]") -> None:
    """Without its reader the gateway is deaf: end, and let whoever watches start it again."""
    log.critical("the task '%s' ended", task.get_name(), exc_info=None if task.cancelled() else task.exception())
    os._exit(1)


async def stop(app: web.Application) -> None:
    """The browsers first; what they posted is finished after that."""
    app[GATEWAY].stop()


def build() -> web.Application:
    """The application."""
    app = web.Application(middlewares=[same_site, outages], client_max_size=64 * 1024)
    app.cleanup_ctx.append(running)
    app.on_shutdown.append(stop)
    app.router.add_get("/rooms/{room}/live", connect)
    app.router.add_get("/rooms/{room}/messages", earlier)
    app.router.add_post("/rooms/{room}/messages", take)
    app.router.add_get("/", page)
    app.router.add_get("/{file:[a-z]+\\.[a-z]+}", page)
    return app


def main() -> None:
    """Until SIGTERM or Ctrl-C."""
    if missing := [name for name in ("DATABASE_URL", "REDIS_URL") if name not in os.environ]:
        sys.exit(f"chat: set {' and '.join(missing)}; `dispatcher dev --run` prints both")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    port = int(os.environ.get("CHAT_PORT", "8090"))
    web.run_app(build(), host="127.0.0.1", port=port, access_log=None, shutdown_timeout=10, print=None)


if __name__ == "__main__":
    main()
