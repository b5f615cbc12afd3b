"""The commands of a Redis client for the keys of one reader, and the way to the right server again.

In a Cluster each reader asks the node of its key itself. The client's own way starts everything anew when one node does
not answer, and would cut the reads of the other nodes, whose replies hold entries that were delivered.

redis-py never retries a command of a reader. If the reply of a read is lost, Redis has delivered entries that nobody
saw, and a second read answers with those after them. So the reader has to learn of the error: then it looks for what is
pending. It also obeys a stop between two tries.
"""

import asyncio
import contextlib
import copy
from collections.abc import Awaitable
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.commands.core import ScriptCommands, StreamCommands
from redis.exceptions import AskError, MovedError
from redis.retry import Retry

OF_A_CLUSTER = (redis.RedisCluster, redis.asyncio.RedisCluster)
GONE = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
MANY = 2**31  # connections: there are never more than functions at work, and one for each reader


class Commands(StreamCommands, ScriptCommands):
    """The commands of a client, whose replies stay bytes: one entry that is no text must not fail the whole read."""

    _event_dispatcher: Any = None  # redis-py's base asks for it, and does not use it for commands

    def __init__(self, client: Any) -> None:
        self._client = without_retries(client)
        self._has_own = self._client is not client
        self._given = client  # of sentinels: our connections ask its pool for the address

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        return self._client.execute_command(*arguments, **options, NEVER_DECODE=True)

    def reconnect(self) -> Any:
        """Leave the server that turned out to be the wrong one; awaitable with a client of redis.asyncio, or None."""
        return close_idle(self._client)

    def close(self) -> None:
        """Close the connections of this reader, if it has its own."""
        if self._has_own:
            with contextlib.suppress(*GONE):
                self._client.connection_pool.disconnect()

    async def aclose(self) -> None:
        """The same with a client of redis.asyncio."""
        if self._has_own:
            with contextlib.suppress(*GONE):
                await self._client.connection_pool.disconnect()


class ClusterCommands(Commands):
    """The same in a Cluster, on the node that holds the key."""

    def __init__(self, client: redis.RedisCluster, key: str) -> None:
        super().__init__(client)
        self._key = key

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        node = self._client.get_node_from_key(self._key)
        try:
            return self._client.get_redis_connection(node).execute_command(*arguments, **options, NEVER_DECODE=True)
        except (MovedError, AskError):  # the client follows, and remembers where to; it retries nothing if told a node
            return super().execute_command(*arguments, **options, target_nodes=node)

    def reconnect(self) -> None:
        with contextlib.suppress(*GONE):
            self._client.nodes_manager.initialize()


class AsyncClusterCommands(Commands):
    """The same on asyncio."""

    def __init__(self, client: redis.asyncio.RedisCluster, key: str) -> None:
        super().__init__(client)
        self._key = key

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        await self._client.initialize()  # nothing, once it knows the nodes
        node = self._client.get_node_from_key(self._key)
        try:
            return await node.execute_command(*arguments, **options, NEVER_DECODE=True)
        except (MovedError, AskError):
            return await super().execute_command(*arguments, **options, target_nodes=node)

    async def reconnect(self) -> None:
        with contextlib.suppress(*GONE):
            await self._client.nodes_manager.initialize()


def commands_for(client: Any, keys: tuple[str, ...]) -> Any:
    """The commands of a reader of these keys."""
    if isinstance(client, redis.asyncio.RedisCluster):
        return AsyncClusterCommands(client, keys[0])
    return ClusterCommands(client, keys[0]) if isinstance(client, redis.RedisCluster) else Commands(client)


def without_retries(client: Any) -> Any:
    """The client; if it retries, a copy with connections of its own that do not. A client of a Cluster as it is."""
    pool: Any = getattr(client, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", {})
    retry = settings.get("retry")
    may_retry = settings.get("retry_on_timeout") or settings.get("retry_on_error")
    if not may_retry and (retry is None or retry.get_retries() == 0):
        return client
    kind, never = (redis, Retry) if isinstance(client, redis.Redis) else (redis.asyncio, AsyncRetry)
    own = copy.copy(client)
    own.connection, own.single_connection_client = None, False
    settings = {**settings, "retry": never(NoBackoff(), 0)}
    own.connection_pool = kind.ConnectionPool(pool.connection_class, max_connections=MANY, **settings)
    return own


def address_of(client: Any) -> str:
    """Where a client leads, for the log: no user and no password."""
    if isinstance(client, OF_A_CLUSTER):
        nodes = client.nodes_manager.startup_nodes.values()
        return f"Cluster of {', '.join(f'{node.host}:{node.port}' for node in nodes)}"
    pool = client.connection_pool
    where: dict[str, Any] = pool.connection_kwargs
    if (service := getattr(pool, "service_name", None)) is not None:
        return f"service '{service}' of the sentinels, database {where.get('db') or 0}"
    address = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
    return f"{address}/{where.get('db') or 0}"


async def answer_of(command: Awaitable[Any]) -> Any:
    """The answer of a command on asyncio; raises CancelledError if the task was cancelled meanwhile.

    redis-py sends with asyncio.wait_for(). Before Python 3.12 that drops a cancellation that comes together with the
    answer, and the cancelled task would go on for ever.
    """
    task = asyncio.current_task()
    before = _cancellations(task)
    try:
        return await command
    finally:
        if _cancellations(task) > before:
            raise asyncio.CancelledError


def _cancellations(task: asyncio.Task[Any] | None) -> int:
    return 0 if task is None else task.cancelling()


def close_idle(client: Any) -> Any:
    """Close the connections that the client uses for nothing just now; awaitable with a client of redis.asyncio.

    A client of a cluster looks after its own.
    """
    if getattr(client, "connection", None) is not None:  # single_connection_client
        return client.connection.disconnect()
    pool = getattr(client, "connection_pool", None)
    try:
        return pool and pool.disconnect(inuse_connections=False)
    except TypeError:  # the BlockingConnectionPool of redis-py before 7 knows all or none
        return pool and pool.disconnect()
