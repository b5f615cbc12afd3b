"""How much one address may ask: its requests wait for their turn, so the event loop that the relay shares stays free.

A refusal costs the loop almost as much as an answer, so waiting helps and refusing does not: a connection that waits
asks for nothing else, and an address has few connections (`connections.py`). Probes have a budget of their own, or a
flood from a kubelet's address would have the dispatcher restarted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from math import ceil
from time import monotonic
from typing import Literal

import anyio
from aiohttp import web

from dispatcher.sidecar.errors import HttpHandler, Refusal

MAX_ADDRESSES = 1024

Purpose = Literal["probe", "other"]

PROBES = ("/health", "/ready")
METRICS_COST, API_COST, OTHER_COST = 20.0, 4.0, 1.0  # units: about a tenth of a millisecond of the loop each


def cost_of(path: str) -> float:
    """In units, which stand for what an answer takes of the loop and of Postgres."""
    return METRICS_COST if path == "/metrics" else API_COST if path.startswith("/api/") else OTHER_COST


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Units of one address, a second and at once. `longest_s`: a request that would wait longer gets 429 after it."""

    rate: float = 200.0
    burst: float = 400.0
    longest_s: float = 2.0


LIMITS = RateLimits()


class RateLimiter:
    """A leaky bucket for each address and purpose. Written by the event loop's thread only."""

    def __init__(self, limits: RateLimits = LIMITS, *, clock: Callable[[], float] = monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._empty_at: dict[tuple[str, Purpose], float] = {}  # when the bucket will be empty

    def wait_s(self, address: str, purpose: Purpose, cost: float) -> float:
        """Seconds to wait first. Nothing is taken from the budget when they are more than `longest_s`."""
        now, limits = self._clock(), self._limits
        key = (network_of(address), purpose)
        empty_at = max(self._empty_at.get(key, now), now) + cost / limits.rate
        wait = max(0.0, empty_at - now - limits.burst / limits.rate)
        if wait <= limits.longest_s:
            if key not in self._empty_at and len(self._empty_at) >= MAX_ADDRESSES:
                self._forget(now)
            self._empty_at[key] = empty_at
        return wait

    def _forget(self, now: float) -> None:
        self._empty_at = {key: until for key, until in self._empty_at.items() if until > now}
        if len(self._empty_at) >= MAX_ADDRESSES:
            self._empty_at.clear()

    @web.middleware
    async def middleware(self, request: web.Request, handler: HttpHandler) -> web.StreamResponse:
        """Let the request through when its turn has come, or raise Refusal after a while."""
        purpose: Purpose = "probe" if request.path in PROBES else "other"
        wait = self.wait_s(request.remote or "", purpose, cost_of(request.path))
        if wait:
            await anyio.sleep(min(wait, self._limits.longest_s))
            if wait > self._limits.longest_s:
                raise Refusal(429, "too many requests from this address", {"Retry-After": str(ceil(wait))})
        return await handler(request)


@lru_cache(maxsize=MAX_ADDRESSES)  # each new connection asks about all that are open
def network_of(address: str) -> str:
    """An IPv4 address; of an IPv6 address its /64, which one host has to itself."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
    return address
