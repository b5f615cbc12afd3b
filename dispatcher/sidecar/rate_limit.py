"""How much one address may ask: a flood of requests is slowed down, and the loop it shares with the relay stays free.

A refusal costs the loop almost as much as an answer, so it is not refusing but waiting that helps: a connection that
waits asks nothing else. An address has few connections (door.py), and each of them one request at a time.
Probes have a budget of their own, or a flood from a kubelet's address would have the dispatcher restarted.
"""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from math import ceil
from time import monotonic
from typing import Literal

import anyio
from aiohttp import web

from dispatcher.sidecar.errors import Handler, Refusal

RATE, BURST = 200.0, 400.0  # units a second and at once, of one address
LONGEST_S = 2.0  # that a request is kept waiting
MOST_ADDRESSES = 1024

Purpose = Literal["probe", "other", "connection"]

PROBES = ("/health", "/ready")
COSTS = {"/metrics": 20.0}  # milliseconds of the loop, where most cost a tenth of one
API_COST = 4.0


def cost_of(path: str) -> float:
    """In units, which stand for what an answer takes of the loop and of Postgres."""
    return COSTS.get(path, API_COST if path.startswith("/api/") else 1.0)


class RateLimiter:
    """A leaky bucket for each address and purpose. Written by the event loop's thread only."""

    def __init__(self, *, rate: float | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate or RATE
        self._clock = clock
        self._level_until: dict[tuple[str, Purpose], float] = {}  # when the bucket will be empty

    def wait_s(self, address: str, purpose: Purpose, cost: float) -> float:
        """How long to wait first. Nothing is taken when that is more than LONGEST_S."""
        now = self._clock()
        key = (network_of(address), purpose)
        empty_at = max(self._level_until.get(key, now), now) + cost / self._rate
        wait = max(0.0, empty_at - now - BURST / self._rate)
        if wait <= LONGEST_S:
            if key not in self._level_until and len(self._level_until) >= MOST_ADDRESSES:
                self._forget(now)
            self._level_until[key] = empty_at
        return wait

    def _forget(self, now: float) -> None:
        self._level_until = {key: until for key, until in self._level_until.items() if until > now}
        if len(self._level_until) >= MOST_ADDRESSES:
            self._level_until.clear()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let the request through when its turn has come, or raise Refusal after a while."""
        purpose: Purpose = "probe" if request.path in PROBES else "other"
        wait = self.wait_s(request.remote or "", purpose, cost_of(request.path))
        if wait:
            await anyio.sleep(min(wait, LONGEST_S))
            if wait > LONGEST_S:
                raise Refusal(429, "too many requests from this address", {"Retry-After": str(ceil(wait))})
        return await handler(request)


@lru_cache(maxsize=MOST_ADDRESSES)  # each new connection asks about all that are open
def network_of(address: str) -> str:
    """An IPv4 address; of an IPv6 address its /64, which one host has to itself."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
    return address
