"""What Redis says of a stream and its consumer groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import monotonic, time
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from dispatcher.infra.redis.positions import StreamPositions

REDIS_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A consumer group: entries it has yet to read, entries read and not acknowledged.

    `last_read_age_s`: since a consumer of it last asked for entries. Without a consumer that is left, since the last
    entry that it has read was added. None: nobody has read, or it was not asked for.
    """

    name: str
    lag: int
    pending: int
    consumers: int
    last_read_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as it is now. One that does not exist yet is empty."""

    length: int
    groups: tuple[GroupInfo, ...]


def summed(streams: Sequence[StreamInfo]) -> StreamInfo:
    """Several streams as one: a group of one name has to read what it has to read in all of them."""
    if len(streams) == 1:
        return streams[0]
    by_name: dict[str, list[GroupInfo]] = {}
    for group in (group for stream in streams for group in stream.groups):
        by_name.setdefault(group.name, []).append(group)
    groups = []
    for name, of in by_name.items():
        ages = [group.last_read_age_s for group in of]
        known = [age for age in ages if age is not None]
        oldest = max(known) if len(known) == len(ages) else None
        lag, pending = sum(group.lag for group in of), sum(group.pending for group in of)
        groups.append(GroupInfo(name, lag, pending, max(group.consumers for group in of), oldest))
    groups.sort(key=lambda group: (-group.lag, group.name))
    return StreamInfo(sum(stream.length for stream in streams), tuple(groups))


def fields_of(pairs: list[Any]) -> dict[str, Any]:
    """The fields of one item of XINFO GROUPS or STREAM, from a raw reply: alternating names and values."""
    return {name.decode(errors="replace"): value for name, value in zip(pairs[::2], pairs[1::2], strict=False)}


GROUPS = 256  # of which it is looked up when they were read last
COUNTED = 10_000  # entries that are read at most to learn what one group has to read, for what is only shown


async def read_stream_info(
    redis: Redis, name: str, positions: StreamPositions | None = None, *, readers: bool = False
) -> StreamInfo:
    """The stream's length and its groups, those that lag most first. Raises RedisError, OSError or TimeoutError.

    `positions`: what earlier looks at this stream have learned. `readers`: ask also when each group was read last.
    """
    known = positions if positions is not None else StreamPositions()
    read_until = monotonic() + REDIS_DEADLINE_S / 2  # large entries take long: then what is shown may be too much

    async def read(begin: str, end: str, count: int) -> Sequence[tuple[Any, Any]] | None:
        if monotonic() > read_until:
            return None
        try:
            found: Any = await redis.xrange(name, begin, end, count)
        except ResponseError:
            return None  # our user may not read: what is shown is more than there may be
        return list(found)

    with anyio.fail_after(REDIS_DEADLINE_S):
        length = int(await redis.xlen(name))
        try:
            found = await redis.xinfo_groups(name)
            # XINFO STREAM carries whole payloads, of the first and the last entry: only when there is no other way.
            unclear = any(group.get("lag") is None for group in found)
            stream = await redis.xinfo_stream(name) if unclear else {}
            lags = [await known.unread(group, stream, read, matters=0, most=COUNTED) for group in found]
        except ResponseError as error:
            if "no such key" not in str(error).lower():
                raise
            return StreamInfo(0, ())
        ages = await _last_reads(redis, name, found[:GROUPS]) if readers else []
    groups = [
        GroupInfo(_text(group["name"]), lag, int(group["pending"]), int(group["consumers"]), age)
        for group, lag, age in zip_longest(found, lags, ages)
    ]
    return StreamInfo(length, tuple(sorted(groups, key=lambda group: (-group.lag, group.name))))


async def _last_reads(redis: Redis, name: str, groups: Sequence[dict[str, Any]]) -> list[float | None]:
    """For each group the seconds since somebody read it last, in one round trip."""
    async with redis.pipeline(transaction=False) as pipeline:
        for group in groups:
            pipeline.xinfo_consumers(name, group["name"])
        answers = await pipeline.execute(raise_on_error=False) if groups else []
    return [_last_read(group, answer) for group, answer in zip(groups, answers, strict=True)]


def _last_read(group: dict[str, Any], consumers: Any) -> float | None:
    if isinstance(consumers, list) and consumers:
        return min(int(each["idle"]) for each in consumers) / 1000
    entry_ms = int(_text(group["last-delivered-id"]).split("-")[0])
    return max(0.0, time() - entry_ms / 1000) if entry_ms else None


def describe_failure(failure: BaseException) -> str:
    """A Redis failure in words: its class, and for a refusal the code it begins with."""
    if isinstance(failure, TimeoutError | RedisTimeout):
        return "no answer in time"
    code = str(failure).split(" ", 1)[0]
    return f"{type(failure).__name__} {code}" if isinstance(failure, ResponseError) else type(failure).__name__


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
