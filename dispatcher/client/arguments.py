"""What the function, the store and the client of a consumer may be: with others events would be lost."""

import functools
import inspect
import logging
from datetime import timedelta
from typing import Any

import redis.asyncio
import redis.client
import redis.cluster
from redis.connection import AbstractConnection

from dispatcher.client.group import Group
from dispatcher.handlers import outages as known

_PIPELINES = (
    redis.client.Pipeline,
    redis.cluster.ClusterPipeline,
    redis.asyncio.client.Pipeline,
    redis.asyncio.cluster.ClusterPipeline,
)
_OF_THREADS = (redis.Redis, redis.RedisCluster)
_OF_THE_LOOP = (redis.asyncio.Redis, redis.asyncio.RedisCluster)
_WRITE = {False: "write `def`, or use AsyncConsumer", True: "write `async def`, or use Consumer"}
# redis-py's own, when the client names none: 5 since its version 8, before that None.
SOCKET_TIMEOUT_S = inspect.signature(AbstractConnection.__init__).parameters["socket_timeout"].default
log = logging.getLogger("dispatcher.client")


def require_consumer(
    client: Any, group: Group, dedup: Any, outages: Any, on_error: Any, concurrency: int, *, asynchronous: bool
) -> None:
    """Raise TypeError or ValueError for arguments with which events would be lost, or the group stand still."""
    require_client(client, asynchronous=asynchronous)
    require_store(dedup, asynchronous=asynchronous)
    require_listener(on_error)
    if wrong := known.check(outages):
        raise TypeError(wrong)
    if concurrency < 1:
        raise ValueError("concurrency must be 1 or more")
    single = getattr(client, "connection", None) is not None or getattr(client, "single_connection_client", False)
    if single and (concurrency > 1 or group.ordered):
        raise ValueError(
            "a single_connection_client reads for one at a time: use a client with a pool, "
            "or concurrency=1 without ordered=True"
        )
    require_patience(client, group.block)


def require_patience(client: object, block: timedelta) -> None:
    """Raise ValueError when the client's socket_timeout is below `block`: an idle stream would look like an outage."""
    of_cluster = getattr(getattr(client, "nodes_manager", None), "connection_kwargs", {})
    settings = getattr(getattr(client, "connection_pool", None), "connection_kwargs", of_cluster)
    timeout_s = settings.get("socket_timeout", SOCKET_TIMEOUT_S)
    if timeout_s is None:
        log.warning("the Redis client has no socket_timeout: run() waits for ever for a server that vanishes")
    elif block.total_seconds() >= timeout_s:
        raise ValueError(
            f"block is {block.total_seconds():g} s, but the Redis client gives up after socket_timeout={timeout_s} s: "
            "lower block, or raise socket_timeout"
        )


def require_handler(handle: Any, *, asynchronous: bool) -> None:
    """Raise TypeError for a function of the wrong kind, before it is called for any event."""
    if not callable(handle):
        raise TypeError(f"the function is a {type(handle).__name__}, and cannot be called")
    inner = _inner(handle)
    _require_no_generator(inner)
    _require_kind(f"the function {_name(inner)}", inner, asynchronous)


def require_hook(hook: Any, *, may_await: bool) -> None:
    """Raise TypeError for a function of on_start() or on_stop() that would never run."""
    inner = _inner(hook)
    _require_no_generator(inner)
    if not may_await:
        _require_kind(f"the function {_name(inner)}", inner, asynchronous=False)


def require_store(store: Any, *, asynchronous: bool) -> None:
    """Raise TypeError for a store of the wrong kind: a coroutine is true, so each event would count as handled."""
    for method in ("has", "add") if store is not None else ():
        _require_kind(f"dedup: {type(store).__name__}.{method}", _inner(getattr(store, method)), asynchronous)


def require_client(client: Any, *, asynchronous: bool) -> None:
    """Raise TypeError for a client of the other kind, or a pipeline."""
    if isinstance(client, _PIPELINES):
        raise TypeError("the client is a pipeline, which answers nothing: give the client that made it")
    if isinstance(client, _OF_THREADS if asynchronous else _OF_THE_LOOP):
        needed = "redis.asyncio.Redis" if asynchronous else "redis.Redis"
        raise TypeError(f"the client is a {type(client).__module__}.{type(client).__name__}: give a {needed}")


def require_listener(on_error: Any) -> None:
    """Raise TypeError for an on_error that would never run."""
    if inspect.iscoroutinefunction(_inner(on_error)):
        raise TypeError("on_error is a coroutine function, which nobody would await: write `def`")


def _require_no_generator(function: Any) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"the function {_name(function)} is a generator, which does nothing when called: remove its `yield`"
        )


def _require_kind(what: str, function: Any, asynchronous: bool) -> None:
    if inspect.iscoroutinefunction(function) and not asynchronous:
        raise TypeError(f"{what} is a coroutine function, which nobody would await: {_WRITE[False]}")
    if asynchronous and _is_plain(function):
        raise TypeError(f"{what} is no coroutine function: {_WRITE[True]}")


def _inner(function: Any) -> Any:
    """The function in a functools.partial, and that of an object that can be called."""
    while isinstance(function, functools.partial | functools.partialmethod):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function) or inspect.iscoroutinefunction(function):
        return function
    called = getattr(type(function), "__call__", None)  # noqa: B004 -- the function itself is looked at
    return called if inspect.isroutine(called) else function


def _is_plain(function: Any) -> bool:
    """Whether it is a `def` that promises nothing to await: it would do its work, and then fail each time."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)) or inspect.iscoroutinefunction(function):
        return False
    promised = str(getattr(function, "__annotations__", {}).get("return", ""))
    may_await = any(word in promised for word in ("Awaitable", "Coroutine", "Future", "Task", "Any"))
    return not may_await and not hasattr(function, "__wrapped__") and function.__name__ != "<lambda>"


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
