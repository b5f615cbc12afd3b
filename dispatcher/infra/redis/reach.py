"""The way to a server: which ones may be the right one, the pipe to it, and what our user says first."""

import asyncio
import socket
from collections.abc import Callable

from aiohappyeyeballs import start_connection

from dispatcher.core.errors import DispatcherError, Unreachable
from dispatcher.core.redis_url import Address
from dispatcher.infra.forks import not_for_children
from dispatcher.infra.redis.cluster import ClusterTarget, read_topology
from dispatcher.infra.redis.pipe import Pipe
from dispatcher.infra.redis.sentinel import named_primaries
from dispatcher.infra.redis.target import NEXT_S, RedisTarget


async def candidates(target: RedisTarget, key: str, timeout_s: float) -> list[RedisTarget]:
    """The servers that may be meant, the likeliest first: several only where sentinels do not agree.

    `key`: in a Cluster, the node that serves it. Raises Misconfigured or Unreachable: nobody names one.
    """
    if target.named:
        return [target]
    if target.cluster is not None:
        return [target.at(await node_of(target.cluster, key, timeout_s))]
    assert target.sentinels is not None  # noqa: S101
    return [target.at(address) for address in await named_primaries(target.sentinels, timeout_s)]


async def node_of(cluster: ClusterTarget, key: str, timeout_s: float) -> Address:
    """The primary that serves a key. Raises Misconfigured or Unreachable."""
    address = (await read_topology(cluster, timeout_s)).node_of(key)
    if address is None:
        raise Unreachable(f"no node of the Cluster of {cluster} serves the slot of '{key}'")
    return address


async def leads_elsewhere(ours: RedisTarget, wanted: RedisTarget, key: str, timeout_s: float) -> bool:
    """Whether another server is named by now than the one that we are connected to, by the settings, all sentinels that
    answer, or the Cluster.

    A primary that is cut off from its sentinels goes on for whoever holds a connection, and loses it all in the end.
    """
    if wanted.configured() != ours.configured() or wanted.named:
        return wanted.configured() != ours.configured()
    try:
        return (ours.host, ours.port) not in [
            (each.host, each.port) for each in await candidates(wanted, key, timeout_s)
        ]
    except DispatcherError:
        return False


async def open_pipe(target: RedisTarget, lost: Callable[[Pipe, str], None]) -> Pipe:
    """A pipe to the server. Raises OSError and its kin."""
    loop = asyncio.get_running_loop()
    # From here on the loop closes the socket, also where TLS fails: closed by us, its number might be another socket's
    # while the loop still watches it.
    _, pipe = await loop.create_connection(
        lambda: Pipe(lost),
        sock=await _connect(target),
        ssl=target.tls,
        server_hostname=target.certified_name() if target.tls else None,
    )
    return pipe


async def _connect(target: RedisTarget) -> socket.socket:
    """A socket that is connected. Raises OSError."""
    loop = asyncio.get_running_loop()
    if target.path is not None:
        unix = _unconnected(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix.setblocking(False)
            await loop.sock_connect(unix, target.path)
        except BaseException:
            unix.close()
            raise
        return unix
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:  # a name: to look it up may take long
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    return await start_connection(
        found, happy_eyeballs_delay=NEXT_S, socket_factory=lambda info: _unconnected(*info[:3])
    )


def _unconnected(family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that no child keeps, though a handler forks it while we connect."""
    made = socket.socket(family, kind, protocol)
    not_for_children(made, lambda ours: [ours.fileno()])
    return made


def sign_in(target: RedisTarget) -> list[tuple[str, ...]]:
    """The commands that come first."""
    commands: list[tuple[str, ...]] = []
    if target.password is not None:
        user = (target.username,) if target.username else ()
        commands.append(("AUTH", *user, target.password))
    if target.db:
        commands.append(("SELECT", str(target.db)))
    return commands
