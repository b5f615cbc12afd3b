"""Remembers handled events, for work that has no transaction to do that in (else: dispatcher.client.inbox).

The consumer asks the store before the work and writes the mark after it, so no event is skipped that was not done. An
event can be done twice: if the process dies between the work and the mark; if the store is away at that moment, for
seconds, and the consumer stops or another one takes the entry over; if the work outlasts `claim_idle` and another
consumer takes the entry over; if two consumers have two entries of one event at that moment; after the time to live; or
if Redis loses the mark. Work that must not happen twice belongs in a transaction.
"""

import dispatcher.client.needs_redis  # noqa: F401 -- before anything else imports redis

# isort: split
import uuid
import warnings
from datetime import timedelta
from typing import Protocol

import redis
import redis.asyncio

from dispatcher.client.arguments import require_client
from dispatcher.client.commands import close_idle
from dispatcher.core.outages import is_wrong_server, reply_of


class DedupStore(Protocol):
    """The store of a Consumer. Yours may be anything: a table, a set, an API that takes idempotency keys."""

    def has(self, event_id: uuid.UUID) -> bool:
        """Whether the event was handled. Asked before the function; raises what the function may raise."""

    def add(self, event_id: uuid.UUID) -> None:
        """Remember that the event was handled. Called after the function, before the acknowledgement."""


class AsyncDedupStore(Protocol):
    """As DedupStore, for AsyncConsumer: both methods are coroutines."""

    async def has(self, event_id: uuid.UUID) -> bool:
        """Whether the event was handled. Asked before the function; raises what the function may raise."""

    async def add(self, event_id: uuid.UUID) -> None:
        """Remember that the event was handled. Called after the function, before the acknowledgement."""


class RedisDedupStore:
    """One Redis key per event, kept for `ttl`: longer than the stream and the outbox keep an event.

    `ttl_s` is its old name, in seconds.
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        consumer: str,
        ttl: timedelta = timedelta(days=30),
        *,
        ttl_s: int | None = None,
    ) -> None:
        require_client(client, asynchronous=False)
        self._client = client
        self._consumer = consumer
        self._ttl = _ttl(ttl, ttl_s)

    def has(self, event_id: uuid.UUID) -> bool:
        return bool(self._client.exists(key(self._consumer, event_id)))

    def add(self, event_id: uuid.UUID) -> None:
        try:
            self._client.set(key(self._consumer, event_id), "", ex=self._ttl)
        except redis.RedisError as error:
            if is_wrong_server(reply_of(error) or ""):
                close_idle(self._client)
            raise


class AsyncRedisDedupStore:
    """The same for an AsyncConsumer."""

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        consumer: str,
        ttl: timedelta = timedelta(days=30),
        *,
        ttl_s: int | None = None,
    ) -> None:
        require_client(client, asynchronous=True)
        self._client = client
        self._consumer = consumer
        self._ttl = _ttl(ttl, ttl_s)

    async def has(self, event_id: uuid.UUID) -> bool:
        return bool(await self._client.exists(key(self._consumer, event_id)))

    async def add(self, event_id: uuid.UUID) -> None:
        try:
            await self._client.set(key(self._consumer, event_id), "", ex=self._ttl)
        except redis.RedisError as error:
            if is_wrong_server(reply_of(error) or "") and hasattr(self._client, "connection_pool"):
                await close_idle(self._client)
            raise


def _ttl(ttl: timedelta | int, ttl_s: int | None) -> timedelta:
    if isinstance(ttl, timedelta) and ttl_s is None:
        return ttl
    seconds = ttl if isinstance(ttl, int) else ttl_s  # as before, in the third place or by name
    warnings.warn("give RedisDedupStore(ttl=timedelta(...)) in place of ttl_s", DeprecationWarning, stacklevel=3)
    return timedelta(seconds=seconds or 0)


def key(consumer: str, event_id: uuid.UUID) -> str:
    return f"handled:{consumer}:{event_id}"
