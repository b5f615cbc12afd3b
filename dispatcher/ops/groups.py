"""The consumer groups of the stream: who reads, how far behind each is, and since when nobody has read."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import NoPermissionError

from dispatcher.core.counted import counted
from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.core.findings.condition import is_exempt
from dispatcher.core.findings.group_needs import UNREAD_S
from dispatcher.core.layout import keys_without, stream_of_key
from dispatcher.core.pacing import HOLD_BACK_AT
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.info import StreamInfo, describe_failure
from dispatcher.infra.redis.streams import read_streams

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
    """`lag`: entries to read; `pending`: read, not acknowledged; `last_read_age_s`: None: nobody has ever read.

    `dead`: entries that its consumers put away; None: not known, such as when our user may not look.
    """

    name: str
    lag: int
    pending: int
    consumers: int
    last_read_age_s: float | None
    exempt: bool  # from backpressure: what it has not read may be trimmed
    dead: int | None = None
    reader: str | None = None  # its consumer that read last
    dead_error: str | None = None  # of the entry that was put away last
    not_on: tuple[str, ...] = ()  # shards of this stream, while it is on others

    def verdict(self, maxlen: int | None) -> str:
        """What is wrong with it, in a few words; "" when nothing is."""
        if self.exempt:
            return "exempt, loses unread entries" if maxlen and self.lag >= maxlen else "exempt"
        if maxlen and self.lag >= HOLD_BACK_AT * maxlen:
            return "holds publishing back"
        if self.lag and (self.last_read_age_s is None or self.last_read_age_s > UNREAD_S):
            return "nobody reads it"
        if maxlen and self.lag >= FAR_BEHIND * maxlen:
            return "far behind"
        return f"not on {counted(len(self.not_on), 'shard')}" if self.not_on else ""


@dataclass(frozen=True, slots=True)
class StreamGroups:
    """One stream. `maxlen`: from so many entries on Redis trims; None: not known."""

    stream: str
    length: int
    maxlen: int | None
    groups: tuple[GroupState, ...]  # those that lag most first


async def read_groups(asked: GroupsQuestion) -> tuple[list[StreamGroups], str | None]:
    """Ask Redis; which streams are missing, because a node of a Cluster is away, is said beside.

    Raises Misconfigured, Unreachable.
    """
    if not asked.redis_url:
        return [], None

    seen, problem = await ask_redis(asked.redis_url, asked.streams, asked.timeout_s)
    without = keys_without({key: [group.name for group in info.groups] for key, info in seen.items()})

    def of(stream: str, info: StreamInfo) -> StreamGroups:
        groups = tuple(
            GroupState(
                each.name,
                each.lag,
                each.pending,
                each.consumers,
                each.last_read_age_s,
                is_exempt(each.name, asked.exempt),
                each.dead,
                each.reader,
                each.put_away.error if each.put_away else None,
                tuple(without.get((stream_of_key(stream), each.name), ())),
            )
            for each in info.groups
        )
        return StreamGroups(stream, info.length, asked.maxlen, groups)

    return [of(stream, info) for stream, info in seen.items()], problem


async def try_to_connect(url: str, streams: Sequence[str], timeout_s: float) -> None:
    """Connect as a dispatcher does: its errors tell a wrong password, the wrong kind of Redis, a key of another type
    and an absent server apart. Raises Misconfigured; and Unreachable, where no other node may answer.
    """
    target = RedisTarget.parse(url)
    connection = RedisConnection(
        target, name="dispatcher-status", streams=streams, connect_timeout_s=timeout_s, on_lost=lambda _: None
    )
    try:
        await connection.connect()
        connection.close()
    except Unreachable:
        if target.cluster is None:
            raise


async def ask_redis(url: str, streams: Sequence[str], timeout_s: float) -> tuple[dict[str, StreamInfo], str | None]:
    """Ask for each stream; what is missing, because a node of a Cluster is away, is a problem in words.

    Raises Misconfigured, Unreachable.
    """
    where = f"Redis at {RedisTarget.parse(url).address()}"
    await try_to_connect(url, streams[:1], timeout_s)
    client = open_client(url, timeout_s)
    try:
        seen = await read_streams(client, streams, readers=True)
    finally:
        await client.aclose()
    if isinstance(seen.failure, NoPermissionError):
        raise Misconfigured(
            f"{where}: this user may not look at '{seen.missing[0]}'; allow it with "
            f"ACL SETUSER ... ~{seen.missing[0]} +xlen +xinfo"
        )
    if seen.failure is None:
        return seen.infos, None
    problem = f"{where} did not answer: {describe_failure(seen.failure)}"
    if not seen.infos:
        raise Unreachable(problem)
    more = f" and {len(seen.missing) - 1} more" if len(seen.missing) > 1 else ""
    return seen.infos, f"{problem}, for {seen.missing[0]}{more}"
