"""Publishes once what is due, in this process: the dispatcher's own claim, XADD and settle, and nothing beside."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from random import SystemRandom
from typing import Any

import anyio
import redis.asyncio

from dispatcher.client.received import Received, receive
from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import RetryPolicy, decide_batch
from dispatcher.core.entry import EntryFormat
from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.settings import Settings
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.publish import replies_of, send
from dispatcher.stages.settle import settle
from dispatcher.testing.conninfo import conninfo_of

BATCH = 500
DEADLINE_S = 10.0
_LEFT = """
SELECT count(*) FROM ONLY messaging.message_outbox AS o
WHERE o.status IN ('pending', 'retry') AND o.next_run_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
"""
DEFAULTS = ("stream_maxlen", "max_payload_bytes", "max_attempts", "backoff_base_ms", "backoff_max_ms")


class NotPublished(DispatcherError):
    """An event could not be published: Redis refused it, or it is too large."""


def relay_once(
    database: Any, redis_url: str, *, stream: str = "sanctum:messages", now: datetime | None = None
) -> list[Received]:
    """Publish every event that is committed and due; those that went out, in that order, as a consumer reads them.

    `database`: a URL, or Django's `connection`. `now`: the time to take for it, for events that are due later. One
    stream, without shards and routes; events of handlers go out too. May be called on an event loop, which waits.
    Raises NotPublished, and then the event is dead, or waits for its next attempt, as in production.
    """
    conninfo = database if isinstance(database, str) else conninfo_of(database)
    published: list[Received] = apart(partial(_relay_once, conninfo, redis_url, stream, now))
    return published


def apart(work: Callable[[], Any]) -> Any:
    """Run a coroutine function on a loop of its own, in a thread: where a test calls us, a loop may be running."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(anyio.run, work).result()


async def _relay_once(conninfo: str, redis_url: str, stream: str, now: datetime | None) -> list[Received]:
    defaults = Settings.load_some(DEFAULTS, {}, {})
    entry = EntryFormat(stream, defaults["stream_maxlen"], defaults["max_payload_bytes"])
    retry = RetryPolicy(
        defaults["max_attempts"], Backoff(defaults["backoff_base_ms"] / 1000, defaults["backoff_max_ms"] / 1000)
    )
    publisher = RedisConnection(
        RedisTarget.parse(redis_url),
        name="testing",
        streams=(stream,),
        connect_timeout_s=DEADLINE_S,
        on_lost=lambda why: None,
    )
    session = await connect(PostgresTarget(conninfo, "testing"), "relay")
    try:
        await publisher.connect()
        published: list[Received] = []
        async with redis.asyncio.Redis.from_url(redis_url) as reader:
            while ids := await _batch(session, publisher, entry, retry, now):
                for stream_id in ids:
                    found: Any = await reader.xrange(stream, stream_id, stream_id)
                    published += [receive(stream_id, fields, 1, stream) for _, fields in found]
        if left := (await session.fetch(_LEFT, {"now": now}))[0][0]:
            raise NotPublished(
                f"{left} events are due and cannot be claimed: a transaction holds them, or Postgres was restarted and "
                "no dispatcher has looked through the stream since"
            )
        return published
    finally:
        publisher.close()
        await session.close()


async def _batch(
    session: Session, publisher: RedisConnection, entry: EntryFormat, retry: RetryPolicy, now: datetime | None
) -> list[str]:
    """Publish one batch; the ids of its entries. None: nothing is due."""
    batch = await claim(
        session,
        claim_id=new_claim_id(),
        dispatcher=None,
        limit=BATCH,
        floor=publisher.floor,
        most_bytes=entry.max_payload_bytes,
        now=now,
    )
    if not batch.rows:
        return []
    sent = send(publisher, entry, batch, DEADLINE_S)
    outcomes = decide_batch(batch.rows, await replies_of(sent), retry, SystemRandom())
    await settle(session, batch.claim_id, outcomes)
    failed = [error.error for _, error in (*outcomes.dead, *outcomes.retries)]
    if outcomes.released or outcomes.unknown:
        failed.append(outcomes.sink_error or "Redis did not answer")
    if failed:
        raise NotPublished(f"{len(batch.rows) - len(outcomes.sent_ids)} events were not published: {failed[0]}")
    return outcomes.stream_ids
