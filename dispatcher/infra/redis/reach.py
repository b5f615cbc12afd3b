"""The way to a server: which ones may be the right one, the pipe to it, and what our user says first."""

import asyncio
from collections.abc import Callable

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.redis.pipe import Pipe
from dispatcher.infra.redis.sentinel import named_primaries
from dispatcher.infra.redis.target import RedisTarget, next_after_s


async def candidates(target: RedisTarget, timeout_s: float) -> list[RedisTarget]:
    """The servers that may be meant, the likeliest first: several only where sentinels do not agree.

    Raises Misconfigured or Unreachable: no sentinel names one.
    """
    if target.sentinels is None:
        return [target]
    return [target.at(address) for address in await named_primaries(target.sentinels, timeout_s)]


async def leads_elsewhere(ours: RedisTarget, wanted: RedisTarget, timeout_s: float) -> bool:
    """Whether the settings, or all sentinels that answer, name another server than the one that we are connected to.

    A primary that is cut off from its sentinels goes on for whoever holds a connection, and loses it all in the end.
    """
    if wanted.place() != ours.place() or wanted.sentinels is None:
        return wanted.place() != ours.place()
    try:
        return (ours.host, ours.port) not in await named_primaries(wanted.sentinels, timeout_s)
    except DispatcherError:
        return False


async def open_pipe(target: RedisTarget, lost: Callable[[Pipe, str], None]) -> Pipe:
    """A pipe to the server. Raises OSError and its kin."""
    loop = asyncio.get_running_loop()
    if target.path is not None:
        _, pipe = await loop.create_unix_connection(lambda: Pipe(lost), target.path)
        return pipe
    _, pipe = await loop.create_connection(
        lambda: Pipe(lost),
        target.host,
        target.port,
        ssl=target.tls,
        server_hostname=target.certified_name() if target.tls else None,
        happy_eyeballs_delay=next_after_s(target.host),
    )
    return pipe


def sign_in(target: RedisTarget) -> list[tuple[str, ...]]:
    """The commands that come first."""
    commands: list[tuple[str, ...]] = []
    if target.password is not None:
        user = (target.username,) if target.username else ()
        commands.append(("AUTH", *user, target.password))
    if target.db:
        commands.append(("SELECT", str(target.db)))
    return commands
