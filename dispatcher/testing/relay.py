"""Publishes once what is due, in this process: the dispatcher's own claim, XADD and settle, and nothing beside."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from random import SystemRandom
from typing import Any

import anyio
import redis.asyncio

from dispatcher.client.received import Received, receive
from dispatcher.core.backoff import Backoff
from dispatcher.core.counted import counted
from dispatcher.core.decide import RetryPolicy, decide_batch
from dispatcher.core.entry import EntryFormats
from dispatcher.core.errors import DispatcherError
from dispatcher.core.layout import Layout
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
_STANDS = "SELECT u.layout FROM ONLY messaging.unbroken AS u"
SETTINGS = (
    *("stream_name", "stream_shards", "routes"),
    *("stream_maxlen", "max_payload_bytes", "max_attempts", "backoff_base_ms", "backoff_max_ms"),
)


class NotPublished(DispatcherError):
    """An event could not be published: Redis refused it, or it is too large."""


def relay_once(
    database: Any, redis_url: str, *, stream: str | None = None, now: datetime | None = None
) -> list[Received]:
    """Publish every event that is committed and due; those that went out, in that order, as a consumer reads them.

    `database`: a URL, or Django's `connection`. `now`: the time to take for it, for events that are due later. It goes
    by the environment's DISPATCH_STREAM_NAME, which `stream` overrides, DISPATCH_STREAM_SHARDS and DISPATCH_ROUTES, as
    a dispatcher would; events of handlers go out too. May be called on an event loop, which waits.
    Raises NotPublished, and then the event is dead, or waits for its next attempt, as in production; and Misconfigured.
    """
    conninfo = database if isinstance(database, str) else conninfo_of(database)
    published: list[Received] = apart(partial(_relay_once, conninfo, redis_url, stream, now))
    return published


def apart(work: Callable[[], Any]) -> Any:
    """Run a coroutine function on a loop of its own, in a thread: where a test calls us, a loop may be running."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(anyio.run, work).result()


async def _relay_once(conninfo: str, redis_url: str, stream: str | None, now: datetime | None) -> list[Received]:
    s = Settings.load_some(SETTINGS, os.environ, {"stream_name": stream})
    layout = Layout(s["stream_name"], s["stream_shards"], s["routes"])
    formats = EntryFormats(layout, s["stream_maxlen"], s["max_payload_bytes"])
    retry = RetryPolicy(s["max_attempts"], Backoff(s["backoff_base_ms"] / 1000, s["backoff_max_ms"] / 1000))
    publisher = RedisConnection(
        RedisTarget.parse(redis_url),
        name="testing",
        streams=layout.keys,
        connect_timeout_s=DEADLINE_S,
        on_lost=lambda why: None,
    )
    session = await connect(PostgresTarget(conninfo, "testing"), "relay")
    relay = _Relay(session, publisher, formats, s["max_payload_bytes"], retry, now)
    try:
        await publisher.connect()
        published: list[Received] = []
        async with redis.asyncio.Redis.from_url(redis_url) as reader:
            while entries := await relay.batch():
                for key, entry_id in entries:
                    found: Any = await reader.xrange(key, entry_id, entry_id)
                    published += [receive(entry_id, fields, 1, key) for _, fields in found]
        if left := (await session.fetch(_LEFT, {"now": now}))[0][0]:
            raise NotPublished(
                f"{counted(left, 'due event')} cannot be claimed: a transaction holds the rows, or Postgres was "
                "restarted and no dispatcher has looked through the stream since"
            )
        return published
    finally:
        publisher.close()
        await session.close()


@dataclass(frozen=True, slots=True)
class _Relay:
    session: Session
    publisher: RedisConnection
    formats: EntryFormats
    most_bytes: int
    retry: RetryPolicy
    now: datetime | None

    async def batch(self) -> list[tuple[str, str]]:
        """Publish one batch; the key and the id of each entry. None: nothing is due."""
        [(layout,)] = await self.session.fetch(_STANDS)  # none but us publishes: whatever stands there is ours
        batch = await claim(
            self.session,
            claim_id=new_claim_id(),
            dispatcher=None,
            limit=BATCH,
            floor=self.publisher.floor,
            most_bytes=self.most_bytes,
            sharded=True,
            layout=layout,
            now=self.now,
        )
        if not batch.rows:
            return []
        sent = send(self.publisher, self.formats, batch, DEADLINE_S)
        outcomes = decide_batch(batch.rows, await replies_of(sent), self.retry, SystemRandom())
        outcomes.streams = sent.streams
        await settle(self.session, batch.claim_id, outcomes)
        failed = [error.error for _, error in (*outcomes.dead, *outcomes.retries)]
        if outcomes.released or outcomes.unknown:
            failed.append(outcomes.sink_error or "Redis did not answer")
        if failed:
            left = counted(len(batch.rows) - len(outcomes.sent_ids), "event")
            raise NotPublished(f"not published: {left}: {failed[0]}")
        return [(sent.streams[row], entry) for row, entry in zip(outcomes.sent_ids, outcomes.stream_ids, strict=True)]
