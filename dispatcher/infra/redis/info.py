"""What Redis says of a stream and its consumer groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from time import monotonic, time
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from dispatcher.core.dead_stream import LastPutAway, dead_stream_of
from dispatcher.infra.redis.positions import StreamPositions
from dispatcher.infra.redis.replies import text_of

REDIS_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A consumer group: entries it has yet to read, entries read and not acknowledged.

    `last_read_age_s`: since a consumer of it last asked for entries. Without a consumer that is left, since the last
    entry that it has read was added. None: nobody has read, or it was not asked for. `dead`: entries that its consumers
    put away, in the dead stream with the default name; None: it was not asked for, or our user may not look.
    `reader`: the consumer that asked last; `put_away`: the last entry that was put away.
    """

    name: str
    lag: int
    pending: int
    consumers: int
    last_read_age_s: float | None = None
    dead: int | None = None
    reader: str | None = None
    put_away: LastPutAway | None = None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as it is now. One that does not exist yet is empty."""

    length: int
    groups: tuple[GroupInfo, ...]
    read_to: float | None = field(default=None, compare=False)  # when the newest entry that a group has read was added
    oldest: float | None = field(default=None, compare=False)  # when its oldest entry was added, where that was asked


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
        counts = [group.dead for group in of if group.dead is not None]
        dead = sum(counts) if len(counts) == len(of) else None
        last = max(of, key=lambda group: (group.last_read_age_s is not None, group.last_read_age_s or 0.0))
        put_away = max((group.put_away for group in of if group.put_away), key=lambda one: one.at, default=None)
        consumers = max(group.consumers for group in of)
        groups.append(GroupInfo(name, lag, pending, consumers, oldest, dead, last.reader, put_away))
    groups.sort(key=lambda group: (-group.lag, group.name))
    newest = max((stream.read_to for stream in streams if stream.read_to), default=None)
    return StreamInfo(sum(stream.length for stream in streams), tuple(groups), newest)


def fields_of(pairs: list[Any]) -> dict[str, Any]:
    """The fields of one item of XINFO GROUPS or STREAM, from a raw reply: alternating names and values."""
    return {name.decode(errors="replace"): value for name, value in zip(pairs[::2], pairs[1::2], strict=False)}


REASON = 200  # characters of an error that are shown
GROUPS = 256  # of which it is looked up when they were read last
COUNTED = 10_000  # entries that are read at most to learn what one group has to read, for what is only shown


async def read_stream_info(
    redis: Redis, name: str, positions: StreamPositions | None = None, *, readers: bool = False
) -> StreamInfo:
    """The stream's length and its groups, those that lag most first. Raises RedisError, OSError or TimeoutError.

    `positions`: what earlier looks at this stream have learned. `readers`: ask also when each group was read
    last, and what its consumers have put away.
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
        seen = await _readers(redis, name, found[:GROUPS], known) if readers else []
    groups = [
        GroupInfo(text_of(group["name"]), lag, int(group["pending"]), int(group["consumers"]), *(of_readers or ()))
        for group, lag, of_readers in zip_longest(found, lags, seen)
    ]
    newest_ms = max(map(_read_to_ms, found), default=0)
    by_lag = sorted(groups, key=lambda group: (-group.lag, group.name))
    return StreamInfo(length, tuple(by_lag), newest_ms / 1000 if newest_ms else None)


async def _readers(
    redis: Redis, name: str, groups: Sequence[dict[str, Any]], known: StreamPositions
) -> list[tuple[float | None, int | None, str | None, LastPutAway | None]]:
    """For each group the seconds since somebody read it last, how much is put away, who read, what was put away last:
    in one round trip, and another one where more is put away than before.
    """
    async with redis.pipeline(transaction=False) as pipeline:
        for group in groups:
            pipeline.xinfo_consumers(name, group["name"])
        for group in groups if known.may_see_dead else ():
            pipeline.xlen(dead_stream_of(name, text_of(group["name"])))
        answers = await pipeline.execute(raise_on_error=False) if groups else []
    if any(isinstance(answer, NoPermissionError) for answer in answers[len(groups) :]):
        known.may_see_dead = False  # each try would be a line in Redis's ACL LOG
    dead = [answer if isinstance(answer, int) else None for answer in answers[len(groups) :]]
    reads = [_last_read(group, answer) for group, answer in zip(groups, answers, strict=False)]
    names = [text_of(group["name"]) for group in groups]
    last = await _last_put_away(redis, name, dict(zip(names, dead, strict=False)), known)
    readers = [_last_reader(answer) for answer in answers[: len(groups)]]
    return list(zip(reads, dead or [None] * len(groups), readers, [last.get(each) for each in names], strict=True))


async def _last_put_away(
    redis: Redis, name: str, counts: Mapping[str, int | None], known: StreamPositions
) -> dict[str, LastPutAway]:
    """By group. XINFO STREAM carries whole payloads: it is asked only where the number changed."""
    some = {group: count for group, count in counts.items() if count}
    asked = [group for group, count in some.items() if known.put_away.get(group, (0, None))[0] != count]
    async with redis.pipeline(transaction=False) as pipeline:
        for group in asked:
            pipeline.xinfo_stream(dead_stream_of(name, group))
        answers = await pipeline.execute(raise_on_error=False) if asked else []
    for group, answer in zip(asked, answers, strict=True):
        entry = answer.get("last-entry") if isinstance(answer, dict) else None
        known.put_away[group] = (some[group], _put_away(entry) if entry else None)
    found = {group: known.put_away[group][1] for group in some}
    return {group: last for group, last in found.items() if last is not None}


def _put_away(entry: Any) -> LastPutAway:
    fields = {text_of(field): value for field, value in entry[1].items()}
    error = text_of(fields.get("dead_reason", b""))[:REASON]
    return LastPutAway(added_at(entry[0]), error if error.isprintable() and error else None)


def added_at(entry_id: bytes | str) -> float:
    """When an entry was added, in Unix seconds by Redis's clock: its id has the time."""
    return int(text_of(entry_id).split("-")[0]) / 1000


def _last_reader(consumers: Any) -> str | None:
    if not isinstance(consumers, list) or not consumers:
        return None
    return text_of(min(consumers, key=lambda each: int(each["idle"]))["name"])


def _last_read(group: dict[str, Any], consumers: Any) -> float | None:
    if isinstance(consumers, list) and consumers:
        return min(int(each["idle"]) for each in consumers) / 1000
    entry_ms = _read_to_ms(group)
    return max(0.0, time() - entry_ms / 1000) if entry_ms else None


def _read_to_ms(group: dict[str, Any]) -> int:
    return int(text_of(group["last-delivered-id"]).split("-")[0])


def describe_failure(failure: BaseException) -> str:
    """A Redis failure in words: its class, and for a refusal the code it begins with."""
    if isinstance(failure, TimeoutError | RedisTimeout):
        return "no answer in time"
    code = str(failure).split(" ", 1)[0]
    return f"{type(failure).__name__} {code}" if isinstance(failure, ResponseError) else type(failure).__name__
