"""What Redis says of a stream and its consumer groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

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


def group_lag(group: Mapping[str, Any], stream: Mapping[str, Any]) -> int:
    """Entries a group has yet to read, at most, where the server cannot tell exactly.

    It cannot after an XDEL, and for a group made at an id in the middle. `group` and `stream` as XINFO gives them.
    """
    if (lag := group.get("lag")) is not None:
        return int(lag)
    if _stream_id(group["last-delivered-id"]) >= _stream_id(stream["last-generated-id"]):
        return 0
    unread = int(stream["length"])
    added, read = stream.get("entries-added"), group.get("entries-read")
    if added is not None and read is not None:
        unread = min(unread, max(0, int(added) - int(read)))
    return unread


async def read_stream_info(redis: Redis, name: str) -> StreamInfo:
    """The stream's length and its groups, those that lag most first. Raises RedisError, OSError or TimeoutError."""
    with anyio.fail_after(REDIS_DEADLINE_S):
        length = int(await redis.xlen(name))
        try:
            found = await redis.xinfo_groups(name)
            # XINFO STREAM carries whole payloads, of the first and the last entry: only when there is no other way.
            unclear = any(group.get("lag") is None for group in found)
            stream = await redis.xinfo_stream(name) if unclear else {}
        except ResponseError as error:
            if "no such key" not in str(error).lower():
                raise
            return StreamInfo(0, ())
    groups = [
        GroupInfo(_text(group["name"]), group_lag(group, stream), int(group["pending"]), int(group["consumers"]))
        for group in found
    ]
    return StreamInfo(length, tuple(sorted(groups, key=lambda group: (-group.lag, group.name))))


def describe_failure(failure: BaseException) -> str:
    """A Redis failure in words: its class, and for a refusal the code it begins with."""
    if isinstance(failure, TimeoutError | RedisTimeout):
        return "no answer in time"
    code = str(failure).split(" ", 1)[0]
    return f"{type(failure).__name__} {code}" if isinstance(failure, ResponseError) else type(failure).__name__


def _stream_id(text: bytes | str) -> tuple[int, int]:
    milliseconds, _, sequence = _text(text).partition("-")
    return int(milliseconds), int(sequence or 0)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
