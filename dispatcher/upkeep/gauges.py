"""A look at the whole every few seconds: the backlog and its age, the notification queue, the stream and its groups.

What it costs is bounded: the count stops at a million rows, and a slow look is followed by a rest twenty times as long.
It never stops the service: a server that does not answer is reported by those who need it, and by figures missing here.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import anyio
import psycopg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from dispatcher.core.errors import Misconfigured, SessionLost
from dispatcher.core.events import Observer, Sampled
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.redis.connection import RedisTarget
from dispatcher.infra.redis.info import REDIS_DEADLINE_S, describe_failure, read_stream_info
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.attention import Attention

BACKLOG_BOUND = 1_000_001
DEAD_BOUND = 10_001
MAX_GROUPS = 64  # each is a series in Prometheus for as long as it exists
WATCHED_S = 2.0  # between two looks while somebody watches
REST = 20  # a look that took t seconds is followed by at least 20 t of rest: never more than a twentieth of a core


async def sample_once(
    fetch: Fetch, redis: Redis | None, stream: str, observe: Observer, *, now: datetime | None = None
) -> None:
    """Look once and emit Sampled. Raises SessionLost or psycopg.Error; Redis's absence is part of what is emitted."""
    [(backlog, oldest_age_s, queue_usage)] = await fetch(load("sample"), {"bound": BACKLOG_BOUND, "now": now})
    [(dead, newest)] = await fetch(load("count_dead"), {"bound": DEAD_BOUND})
    length, lags, error = None, {}, None
    try:
        seen = await read_stream_info(redis, stream) if redis is not None else None
        if seen is not None:
            length, lags = seen.length, {group.name: group.lag for group in seen.groups[:MAX_GROUPS]}
    except NoPermissionError:
        pass  # it answers; what may not be looked at is no outage
    except (RedisError, OSError, TimeoutError) as failure:
        error = describe_failure(failure)
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
    RedisTarget.parse(url)  # says what is wrong with it in our words
    if old is not None:
        await old.aclose()
    return Redis.from_url(
        url,
        client_name=name,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=REDIS_DEADLINE_S,
        socket_connect_timeout=REDIS_DEADLINE_S,
    )
