"""Access to API and console: a bearer token, or loopback only; known host names only; no pages of other sites.

Probes and metrics are open: they hold nothing secret, and kubelets and Prometheus use any name for the host.
The console's page holds no data, so it is served without the token that its script then asks for.
"""

import hashlib
import hmac
import re
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from time import monotonic
from typing import Literal

from aiohttp import web

from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.infra.blocking import CurrentSetting
from dispatcher.sidecar.errors import HttpHandler, Refusal

TOKEN_S = 1.0  # the token's file is read at most once in so long: a flood of requests must not be a flood of reads
SAFE = ("GET", "HEAD", "OPTIONS")
CHALLENGE = 'Bearer realm="dispatcher"'
OFF = (
    "the API and the console are off: set DISPATCH_API_TOKEN, "
    "or listen on this machine only with DISPATCH_HTTP_HOST=127.0.0.1"
)

Zone = Literal["open", "page", "api"]


def zone_of(path: str) -> Zone:
    """Which rules a path falls under. A path that does not exist is open."""
    if path == "/api" or path.startswith("/api/"):
        return "api"
    return "page" if path == "/" or path == "/console" or path.startswith("/console/") else "open"


def is_loopback(host: str) -> bool:
    """Whether a listening address can be reached from this machine only. A name other than localhost is not trusted."""
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class AccessControl:
    """`token`: the one that is valid now, None when there is none; may raise Misconfigured.

    `hosts`: names besides addresses, localhost and the machine's own; `*.example.com` and `*` are patterns.
    """

    def __init__(
        self,
        *,
        token: Callable[[], str | None] = lambda: None,
        token_s: float = TOKEN_S,
        listens_on: str = "0.0.0.0",  # noqa: S104 -- the careful assumption
        hosts: Sequence[str] = (),
    ) -> None:
        self._asked = CurrentSetting(token)
        self._token_s = token_s
        self._loopback = is_loopback(listens_on)
        self._added = [host.lower() for host in hosts]
        self._hosts = [*self._added, "localhost", "*.localhost", socket.gethostname().lower(), listens_on.lower()]
        self._token: str | None = None  # this and the next written by _current_token()
        self._read_at: float | None = None

    @web.middleware
    async def middleware(self, request: web.Request, handler: HttpHandler) -> web.StreamResponse:
        """Let the request through, or raise Refusal."""
        if (zone := zone_of(request.path)) != "open":
            self._check(request, zone, await self._current_token())
        return await handler(request)

    def _check(self, request: web.Request, zone: Zone, token: str | None) -> None:
        if token is None and not self._loopback:
            raise Refusal(403, OFF)
        self._check_host(request)
        if zone == "api":
            if token is not None:
                _check_token(request, token)
            if request.method not in SAFE:
                self._check_origin(request)

    async def _current_token(self) -> str | None:
        now = monotonic()
        if self._read_at is None or now - self._read_at > self._token_s:
            try:
                self._token = await self._asked.get()
            except (Misconfigured, Unreachable):
                # The old one may have been revoked: nobody is let in until there is a file again.
                raise Refusal(503, "the file with the API's token cannot be read now", {"Retry-After": "1"}) from None
            self._read_at = now
        return self._token

    def _check_host(self, request: web.Request) -> None:
        """Refuse unknown host names: another site may point its name at our address (DNS rebinding)."""
        name = _name(request.headers.get("Host", ""))
        if name is None or not (_is_address(name) or _matches(name, self._hosts)):
            raise Refusal(
                421, "this host name is not answered to: add it to DISPATCH_HTTP_ALLOWED_HOSTS, or use the address"
            )

    def _check_origin(self, request: web.Request) -> None:
        """Refuse changes from pages of other sites: their POST comes without a preflight, but names its origin."""
        headers = request.headers
        if (origin := headers.get("Origin")) is not None:
            place = origin.partition("://")[2].lower()
            allowed = place == headers.get("Host", "").lower() or _matches(_name(place) or "", self._added)
        else:
            allowed = headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        if not allowed:
            raise Refusal(
                403, "a page of another site may not do this: use the console, or a client that is no browser"
            )


def _check_token(request: web.Request, token: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        error = "a token is needed: send 'Authorization: Bearer <the value of DISPATCH_API_TOKEN>'"
        raise Refusal(401, error, {"WWW-Authenticate": CHALLENGE})
    # Hashed first: comparing says nothing about the length either, and takes any characters.
    if not hmac.compare_digest(_digest(given.strip()), _digest(token)):
        error = "the token is not the value of DISPATCH_API_TOKEN"
        raise Refusal(401, error, {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _name(host: str) -> str | None:
    """The name or address in a Host header or an origin, in lower case and without its port."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/@]+)(?::[0-9]{0,5})?", host)
    return found[1].lower().rstrip(".") if found else None


def _is_address(name: str) -> bool:
    """Whether the name is an address: nobody can point an address elsewhere, so it is allowed."""
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(
        pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:])) for pattern in patterns
    )
