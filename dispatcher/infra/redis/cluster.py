"""Redis Cluster: which node serves a key, asked of all nodes at once, through redis-py.

A node that is down holds up nobody. One that is cut off from the others has an old view: what most say counts.
"""

import asyncio
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.core.redis_url import Address
from dispatcher.infra.redis.at_once import ask_at_once, asking_options, tls_failure
from dispatcher.infra.redis.closing import closing_at_once
from dispatcher.infra.redis.shapes import ODD_REPLY

SLOTS = 16384
NO_CLUSTER = "has no cluster mode: write redis:// in REDIS_URL for redis+cluster://"
NO_SERVER = {
    "cluster": "is a node of a Redis Cluster: write redis+cluster:// in REDIS_URL for redis://",
    "sentinel": "is a sentinel: write redis+sentinel:// in REDIS_URL for redis://, and the service after the slash",
}


@dataclass(frozen=True, slots=True)
class ClusterTarget:
    """A Cluster, by some of its nodes. `tls`: the ssl_* options of redis-py; None: no TLS."""

    addresses: tuple[Address, ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self.addresses)

    def node(self, address: Address, timeout_s: float) -> ClusterNode:
        """To ask one node, through redis-py; whoever has one disconnects it."""
        options = asking_options(timeout_s, self.tls)
        connection_class = closing_at_once(SSLConnection if options.pop("ssl", False) else Connection)
        options |= {"username": self.username, "password": self.password}
        return ClusterNode(*address, connection_class=connection_class, **options)


@dataclass(frozen=True, slots=True)
class Topology:
    """Ranges of hash slots, in order: the first, the last, their primary, its replicas."""

    ranges: tuple[tuple[int, int, Address, tuple[Address, ...]], ...]

    def node_of(self, key: str) -> Address | None:
        """The primary that serves a key; None: its slot is served by none."""
        slot = key_slot(key.encode())
        at = bisect_right(self.ranges, slot, key=lambda each: each[0]) - 1
        return self.ranges[at][2] if at >= 0 and slot <= self.ranges[at][1] else None

    @property
    def primaries(self) -> tuple[Address, ...]:
        """Each once."""
        return tuple(dict.fromkeys(primary for _, _, primary, _ in self.ranges))

    @property
    def nodes(self) -> tuple[Address, ...]:
        """Primaries, then replicas, each once."""
        return tuple(dict.fromkeys([*self.primaries, *(each for *_, replicas in self.ranges for each in replicas)]))

    @property
    def uncovered(self) -> int:
        """How many hash slots no node serves."""
        return SLOTS - sum(last - first + 1 for first, last, *_ in self.ranges)

    def replicas_of(self, primary: Address) -> int:
        """How many replicas it has at least, over its ranges."""
        return min((len(replicas) for _, _, each, replicas in self.ranges if each == primary), default=0)


def no_single_server(info: bytes) -> str | None:
    """What it is instead, by INFO server, with the remedy; None: it is one. Valkey may call it server_mode."""
    mode = re.search(rb"^(?:redis|server)_mode:(\w+)", info, re.MULTILINE)
    return NO_SERVER.get(mode[1].decode()) if mode else None


@dataclass(slots=True)
class _Views:
    seen: list[Topology] = field(default_factory=list)
    wrong: list[Misconfigured] = field(default_factory=list)


async def read_topology(target: ClusterTarget, timeout_s: float) -> Topology:
    """The topology as most nodes see it.

    Who asks while another task does gets the same answer: the shards of a node that went away all ask at that moment.
    Raises Misconfigured: no node takes us, or there is no cluster mode; Unreachable: none answers.
    """
    asked = asyncio.get_running_loop(), target
    while (other := next((answer for what, answer in _asked_now if what == asked), None)) is not None:
        if (found := await asyncio.shield(other)) is not None:  # None: whoever asked was cancelled
            return _or_raise(found)
    answer: asyncio.Future[Topology | DispatcherError | None] = asked[0].create_future()
    _asked_now.append((asked, answer))
    found = None
    try:
        found = await _read(target, timeout_s)
    except DispatcherError as error:
        found = error
    finally:
        _asked_now.remove((asked, answer))
        answer.set_result(found)
    return _or_raise(found)


def _or_raise(found: Topology | DispatcherError) -> Topology:
    if isinstance(found, DispatcherError):
        raise type(found)(str(found))  # one of its own for each task that asked
    return found


async def _read(target: ClusterTarget, timeout_s: float) -> Topology:
    views, addresses = _Views(), list(dict.fromkeys(target.addresses))
    await ask_at_once(
        [partial(_ask, target, address, timeout_s, views) for address in addresses],
        some=lambda: bool(views.seen),
        enough=lambda: len(views.seen) * 2 > len(addresses),
    )
    if views.seen:
        return Counter(views.seen).most_common(1)[0][0]
    if views.wrong:
        raise views.wrong[0]
    raise Unreachable(f"none of the nodes at {target} answers, or the Cluster serves no slot")


_Asked = tuple[asyncio.AbstractEventLoop, ClusterTarget]
_asked_now: list[tuple[_Asked, asyncio.Future[Topology | DispatcherError | None]]] = []


async def _ask(target: ClusterTarget, address: Address, timeout_s: float, views: _Views) -> None:
    node = target.node(address, timeout_s)
    where = f"Redis at {address[0]}:{address[1]}"
    try:
        with anyio.fail_after(timeout_s):
            found = await node.execute_command("CLUSTER", "SLOTS")
        if seen := _topology(found, address[0]):
            views.seen.append(seen)
    except (AuthenticationError, NoPermissionError) as error:
        remedy = "check the user and password in REDIS_URL"
        if isinstance(error, NoPermissionError):
            remedy = "allow this user +cluster|slots"
        views.wrong.append(Misconfigured(f"{where} refused us: {remedy}"))
    except ResponseError as error:
        text = str(error)
        if "cluster support disabled" in text or "unknown command" in text.lower():
            views.wrong.append(Misconfigured(f"{where} {NO_CLUSTER}"))
    except (RedisError, OSError, TimeoutError, *ODD_REPLY) as error:  # the others are asked too
        if (reason := tls_failure(error)) is not None:
            views.wrong.append(Misconfigured(f"{where}: TLS failed ({reason}). Check REDIS_URL"))
    finally:
        with anyio.CancelScope(shield=True):
            await node.disconnect()


def _topology(found: Any, asked: str) -> Topology | None:
    """From the reply to CLUSTER SLOTS; a node without an address is at the one that was asked."""

    def at(node: list[Any]) -> Address:
        host, port, *more = node
        if host == b"?":  # nodes are told by their names, and it has none: its address stands behind
            about: Any = more[1] if len(more) > 1 else {}
            pairs = about if isinstance(about, dict) else dict(zip(about[::2], about[1::2], strict=False))
            host = pairs.get(b"ip")
        return (host or b"").decode() or asked, int(port)

    ranges = [
        (int(first), int(last), at(primary), tuple(map(at, replicas))) for first, last, primary, *replicas in found
    ]
    return Topology(tuple(sorted(ranges))) if ranges else None
