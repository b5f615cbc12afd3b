"""What Redis says of a stream and its consumer groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from dispatcher.infra.redis.positions import StreamPositions

REDIS_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A consumer group: entries it has yet to read, entries read and not acknowledged."""

    name: str
    lag: int
    pending: int
    consumers: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as it is now. One that does not exist yet is empty."""

    length: int
    groups: tuple[GroupInfo, ...]


def fields_of(pairs: list[Any]) -> dict[str, Any]:
    """The fields of one item of XINFO GROUPS or STREAM, from a raw reply: alternating names and values."""
    return {name.decode(errors="replace"): value for name, value in zip(pairs[::2], pairs[1::2], strict=False)}


COUNTED = 10_000  # entries that are read at most to learn what one group has to read, for what is only shown


async def read_stream_info(redis: Redis, name: str, positions: StreamPositions | None = None) -> StreamInfo:
    """The stream's length and its groups, those that lag most first. Raises RedisError, OSError or TimeoutError.

    `positions`: what earlier looks at this stream have learned.
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
    groups = [
        GroupInfo(_text(group["name"]), lag, int(group["pending"]), int(group["consumers"]))
        for group, lag in zip(found, lags, strict=True)
    ]
    return StreamInfo(length, tuple(sorted(groups, key=lambda group: (-group.lag, group.name))))


def describe_failure(failure: BaseException) -> str:
    """A Redis failure in words: its class, and for a refusal the code it begins with."""
    if isinstance(failure, TimeoutError | RedisTimeout):
        return "no answer in time"
    code = str(failure).split(" ", 1)[0]
    return f"{type(failure).__name__} {code}" if isinstance(failure, ResponseError) else type(failure).__name__


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
