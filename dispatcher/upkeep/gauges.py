"""A look at the whole every few seconds: the backlog and its age, the notification queue, the stream and its groups.

What it costs is bounded: the count stops at a million rows, and a slow look is followed by a rest twenty times as long.
It never stops the service: a server that does not answer is reported by those who need it, and by figures missing here.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
import psycopg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from dispatcher.core.errors import Misconfigured, SessionLost
from dispatcher.core.events import Observer, Sampled
from dispatcher.infra.broker import BrokerTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.attention import Attention

BACKLOG_BOUND = 1_000_001
DEAD_BOUND = 10_001
MAX_GROUPS = 64  # each is a series in Prometheus for as long as it exists
REDIS_DEADLINE_S = 2.0
WATCHED_S = 2.0  # between two looks while somebody watches
REST = 20  # a look that took t seconds is followed by at least 20 t of rest: never more than a twentieth of a core

Fetch = Callable[[str, Mapping[str, object] | None], Awaitable[list[tuple[Any, ...]]]]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group: entries it has yet to read, entries read and not acknowledged."""

    name: str
    lag: int
    pending: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as it is now. One that does not exist yet is empty."""

    length: int
    groups: tuple[Group, ...]


def lag_of(group: Mapping[str, Any], stream: Mapping[str, Any]) -> int:
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


async def look_at_stream(redis: Redis, name: str) -> Stream:
    """The stream's length and its groups, those that lag most first. Raises RedisError, OSError or TimeoutError."""
    with anyio.fail_after(REDIS_DEADLINE_S):
        length = int(await redis.xlen(name))
        try:
            found = await redis.xinfo_groups(name)
            # It carries the first and the last entry, payload and all: asked only when there is no other way.
            unclear = any(group.get("lag") is None for group in found)
            stream = await redis.xinfo_stream(name) if unclear else {}
        except ResponseError as error:
            if "no such key" not in str(error).lower():
                raise
            return Stream(0, ())
    groups = [
        Group(_text(group["name"]), lag_of(group, stream), int(group["pending"]), int(group["consumers"]))
        for group in found
    ]
    return Stream(length, tuple(sorted(groups, key=lambda group: (-group.lag, group.name))))


async def sample_once(
    fetch: Fetch, redis: Redis | None, stream: str, observe: Observer, *, now: datetime | None = None
) -> None:
    """Look once and emit Sampled. Raises SessionLost or psycopg.Error; Redis's absence is part of what is emitted."""
    [(backlog, oldest_age_s, queue_usage)] = await fetch(load("sample"), {"bound": BACKLOG_BOUND, "now": now})
    [(dead, newest)] = await fetch(load("count_dead"), {"bound": DEAD_BOUND})
    length, lags, error = None, {}, None
    try:
        seen = await look_at_stream(redis, stream) if redis is not None else None
        if seen is not None:
            length, lags = seen.length, {group.name: group.lag for group in seen.groups[:MAX_GROUPS]}
    except NoPermissionError:
        pass  # it answers; what may not be looked at is no outage
    except (RedisError, OSError, TimeoutError) as failure:
        error = describe(failure)
    newest_dead_at = newest.timestamp() if newest else None
    observe(Sampled(backlog, oldest_age_s, queue_usage, length, lags, error, dead, newest_dead_at))


async def run(
    fetch: Fetch,
    redis_url: Callable[[], str],
    name: str,
    stream: str,
    observe: Observer,
    *,
    every_s: float = 10.0,
    attention: Attention | None = None,
) -> None:
    """Sample until cancelled. `redis_url` is asked before each look: a rotated password is used without a restart.

    While somebody watches (`attention`) the next look follows after `WATCHED_S` already.
    `redis_url` answers "" when no event goes to the stream.
    """
    url, redis = "", None
    now: str | None = None
    try:
        while True:
            began = time.monotonic()
            with suppress(Misconfigured):  # a secret's file is gone or half written: go on with what there is
                if (now := redis_url()) and (now != url or redis is None):
                    url, redis = now, await _replaced(redis, now, name)
            # Postgres away or too busy: the age of the last sample says so, and the next look may succeed.
            with suppress(SessionLost, psycopg.Error):
                if redis is not None or now == "":
                    await sample_once(fetch, redis, stream, observe)
            rest_s = REST * (time.monotonic() - began)
            await anyio.sleep(rest_s if attention else max(rest_s, every_s))
            if attention:
                await attention.rest(every_s - rest_s, WATCHED_S - rest_s)
    finally:
        with anyio.CancelScope(shield=True):
            if redis is not None:
                await redis.aclose()


async def _replaced(old: Redis | None, url: str, name: str) -> Redis:
    BrokerTarget.parse(url)  # says what is wrong with it in our words
    if old is not None:
        await old.aclose()
    return Redis.from_url(
        url,
        client_name=name,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=REDIS_DEADLINE_S,
        socket_connect_timeout=REDIS_DEADLINE_S,
    )


def describe(failure: BaseException) -> str:
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
