"""The commands of a Redis client for the keys of one reader, and the way to the right server again.

In a Cluster each reader asks the node of its key itself. The client's own way starts everything anew when one node does
not answer, and would cut the reads of the other nodes, whose replies hold entries that were delivered.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import redis
import redis.asyncio
from redis.commands.core import ScriptCommands, StreamCommands
from redis.exceptions import AskError, MovedError

OF_A_CLUSTER = (redis.RedisCluster, redis.asyncio.RedisCluster)
GONE = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)


class Commands(StreamCommands, ScriptCommands):
    """The commands of a client, whose replies stay bytes: one entry that is no text must not fail the whole read."""

    _event_dispatcher: Any = None  # redis-py's base asks for it, and does not use it for commands

    def __init__(self, client: Any) -> None:
        self._client = client

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        return self._client.execute_command(*arguments, **options, NEVER_DECODE=True)

    def reconnect(self) -> Any:
        """Leave the server that turned out to be the wrong one; awaitable with a client of redis.asyncio, or None."""
        return close_idle(self._client)


class ClusterCommands(Commands):
    """The same in a Cluster, on the node that holds the key."""

    def __init__(self, client: redis.RedisCluster, key: str) -> None:
        super().__init__(client)
        self._key = key

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        node = self._client.get_node_from_key(self._key)
        try:
            return self._client.get_redis_connection(node).execute_command(*arguments, **options, NEVER_DECODE=True)
        except (MovedError, AskError):  # the client follows, and remembers where to
            return super().execute_command(*arguments, **options)

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
            return await self._client.execute_command(*arguments, **options, NEVER_DECODE=True)

    async def reconnect(self) -> None:
        with contextlib.suppress(*GONE):
            await self._client.nodes_manager.initialize()


def commands_for(client: Any, keys: tuple[str, ...]) -> Any:
    """The commands of a reader of these keys."""
    if isinstance(client, redis.asyncio.RedisCluster):
        return AsyncClusterCommands(client, keys[0])
    return ClusterCommands(client, keys[0]) if isinstance(client, redis.RedisCluster) else Commands(client)


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
