"""Which events were handled, for work that has no transaction to remember it in (else: dispatcher.client.inbox).

A store is asked before the work and told after it, so it never skips an event that was not done. It does not promise
that none is done twice: not when the process dies between the work and the mark, when another consumer takes the entry
over because the work outlasted `claim_idle_ms`, when two consumers hold two entries of one event at that moment, after
the time to live, or when Redis loses the mark. Work that must not happen twice belongs into a transaction.
"""

import uuid
from typing import Protocol

import redis
import redis.asyncio

DAY_S = 86_400


class DedupStore(Protocol):
    """What a Consumer asks. Yours may be any: a table, a set, an API that takes idempotency keys."""

    def has(self, event_id: uuid.UUID) -> bool:
        """Whether the event was handled."""

    def add(self, event_id: uuid.UUID) -> None:
        """It was handled."""


class AsyncDedupStore(Protocol):
    """What an AsyncConsumer asks."""

    async def has(self, event_id: uuid.UUID) -> bool:
        """Whether the event was handled."""

    async def add(self, event_id: uuid.UUID) -> None:
        """It was handled."""


class RedisDedupStore:
    """A key an event, for `ttl_s` seconds: longer than the stream and the outbox keep an event."""

    def __init__(self, client: redis.Redis, consumer: str, ttl_s: int = 30 * DAY_S) -> None:
        self._client = client
        self._consumer = consumer
        self._ttl_s = ttl_s

    def has(self, event_id: uuid.UUID) -> bool:
        """Whether the key is there."""
        return bool(self._client.exists(key(self._consumer, event_id)))

    def add(self, event_id: uuid.UUID) -> None:
        """Write the key."""
        self._client.set(key(self._consumer, event_id), "", ex=self._ttl_s)


class AsyncRedisDedupStore:
    """The same for an AsyncConsumer."""

    def __init__(self, client: redis.asyncio.Redis, consumer: str, ttl_s: int = 30 * DAY_S) -> None:
        self._client = client
        self._consumer = consumer
        self._ttl_s = ttl_s

    async def has(self, event_id: uuid.UUID) -> bool:
        """Whether the key is there."""
        return bool(await self._client.exists(key(self._consumer, event_id)))

    async def add(self, event_id: uuid.UUID) -> None:
        """Write the key."""
        await self._client.set(key(self._consumer, event_id), "", ex=self._ttl_s)


def key(consumer: str, event_id: uuid.UUID) -> str:
    """The key of an event."""
    return f"handled:{consumer}:{event_id}"
