"""The console's page: a handful of static files, read once. It holds no data, so it asks for no token; its script does.

Markup is refused by the browser itself, twice over: the policy allows scripts and styles from these files only, and
with trusted types not even they can turn text into markup.
"""

import hashlib
from importlib.resources import files

from aiohttp import web

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def routes() -> list[web.RouteDef]:
    found = []
    for file in sorted(files("dispatcher.sidecar").joinpath("console").iterdir(), key=lambda file: file.name):
        name = file.name
        kind = TYPES.get("." + name.rpartition(".")[2])
        if kind is not None:
            path = "/" if name == "index.html" else f"/console/{name}"
            found.append(web.get(path, _Static(file.read_bytes(), kind).answer))
    return found


class _Static:
    """One file, answered from memory; a browser that has it already is told so."""

    def __init__(self, body: bytes, kind: str) -> None:
        self._body = body
        self._headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Security-Policy": POLICY,
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "Cache-Control": "no-cache",  # asked for each time, so that a release is seen at once
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"',
        }

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == self._headers["ETag"]:
            return web.Response(status=304, headers=self._headers)
        return web.Response(body=self._body, headers=self._headers)
