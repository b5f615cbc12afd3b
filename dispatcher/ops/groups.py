"""The consumer groups of the stream: who reads, how far behind each is, and since when nobody has read."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from dispatcher.core.condition import is_exempt
from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.core.pacing import HOLD_BACK_AT
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.info import describe_failure, read_stream_info

T = TypeVar("T")
UNREAD_S = 900.0  # a group with entries to read that nobody has read for so long is abandoned
FAR_BEHIND = 0.5  # of MAXLEN


@dataclass(frozen=True, slots=True)
class GroupsQuestion:
    """Which keys, where, and what the dispatchers make of it. `redis_url` "": no event goes to a stream."""

    redis_url: str
    streams: tuple[str, ...]
    maxlen: int | None
    exempt: tuple[str, ...] = ()
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class GroupState:
    """`lag`: entries to read; `pending`: read, not acknowledged; `last_read_age_s`: None: nobody has ever read."""

    name: str
    lag: int
    pending: int
    consumers: int
    last_read_age_s: float | None
    exempt: bool  # from backpressure: what it has not read may be trimmed

    def verdict(self, maxlen: int | None) -> str:
        """What is wrong with it, in a few words; "" when nothing is."""
        if self.exempt:
            return "exempt, loses unread entries" if maxlen and self.lag >= maxlen else "exempt"
        if maxlen and self.lag >= HOLD_BACK_AT * maxlen:
            return "holds publishing back"
        if self.lag and (self.last_read_age_s is None or self.last_read_age_s > UNREAD_S):
            return "nobody reads it"
        return "far behind" if maxlen and self.lag >= FAR_BEHIND * maxlen else ""


@dataclass(frozen=True, slots=True)
class StreamGroups:
    """One stream. `maxlen`: from so many entries on Redis trims; None: not known."""

    stream: str
    length: int
    maxlen: int | None
    groups: tuple[GroupState, ...]  # those that lag most first


async def read_groups(asked: GroupsQuestion) -> list[StreamGroups]:
    """Ask Redis. Raises Misconfigured, Unreachable."""
    if not asked.redis_url:
        return []

    async def of_each(client: Redis) -> list[StreamGroups]:
        return [await question(client, stream) for stream in asked.streams]

    async def question(client: Redis, stream: str) -> StreamGroups:
        info = await read_stream_info(client, stream, readers=True)
        groups = tuple(
            GroupState(
                each.name,
                each.lag,
                each.pending,
                each.consumers,
                each.last_read_age_s,
                is_exempt(each.name, asked.exempt),
            )
            for each in info.groups
        )
        return StreamGroups(stream, info.length, asked.maxlen, groups)

    return await ask_redis(asked.redis_url, asked.streams[0], asked.timeout_s, of_each)


async def ask_redis(url: str, stream: str, timeout_s: float, question: Callable[[Redis], Awaitable[T]]) -> T:
    """Put one question to Redis. Raises Misconfigured, Unreachable."""
    target = RedisTarget.parse(url)
    where = f"Redis at {target.address()}"
    # Our own connection first: its errors tell a wrong password, a key of another type and an absent server apart.
    connection = RedisConnection(
        target, name="dispatcher-status", streams=(stream,), connect_timeout_s=timeout_s, on_lost=lambda _: None
    )
    await connection.connect()
    connection.close()
    client = open_client(url, timeout_s)
    try:
        return await question(client)
    except NoPermissionError:
        raise Misconfigured(
            f"{where}: this user may not look at '{stream}'; allow it with ACL SETUSER ... ~{stream} +xlen +xinfo"
        ) from None
    except (RedisError, OSError, TimeoutError) as error:
        raise Unreachable(f"{where} did not answer: {describe_failure(error)}") from None
    finally:
        await client.aclose()
