"""What a handler, a store and a client may be, and what they may answer: the rest would lose events without a word."""

import concurrent.futures
import functools
import inspect
from collections.abc import AsyncGenerator, Generator
from typing import Any

import redis.asyncio
import redis.client
import redis.cluster

_PIPELINES = (
    redis.client.Pipeline,
    redis.cluster.ClusterPipeline,
    redis.asyncio.client.Pipeline,
    redis.asyncio.cluster.ClusterPipeline,
)
_OF_THREADS = (redis.Redis, redis.RedisCluster)
_OF_THE_LOOP = (redis.asyncio.Redis, redis.asyncio.RedisCluster)
_WRITE = {False: "write `def`, or use AsyncConsumer", True: "write `async def`, or use Consumer"}


class WrongAnswer(TypeError):
    """The program is wrong, not the event: run() ends, and nothing is acknowledged."""


class HandlerRefused(Exception):
    """The handler returned False, NotImplemented or an exception: the event failed."""


class HandlerCancelled(Exception):
    """Something in the handler was cancelled, and nobody cancelled run(): the event failed."""


class HandlerTooSlow(Exception):
    """The handler did not end in its time, and was cancelled: the event failed."""


def require_handler(handle: Any, *, asynchronous: bool) -> None:
    """Raise TypeError for a function of the wrong kind, before it is called for any event."""
    if not callable(handle):
        raise TypeError(f"the handler is a {type(handle).__name__}, and cannot be called")
    inner = _inner(handle)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise TypeError(
            f"the handler {_name(inner)} is a generator, which does nothing when called: remove its `yield`"
        )
    _require_kind(f"the handler {_name(inner)}", inner, asynchronous)


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


def check_answer(answer: object) -> None:
    """Raise WrongAnswer when the work is not done yet, and HandlerRefused when the answer says that it failed."""
    if inspect.isawaitable(answer) or isinstance(answer, Generator | AsyncGenerator | concurrent.futures.Future):
        _drop(answer)
        raise WrongAnswer(
            f"the handler returned a {type(answer).__name__}: its work is not done, so the event is not acknowledged. "
            "Await it in an AsyncConsumer, or wait for its result"
        )
    if answer is False or answer is NotImplemented or isinstance(answer, BaseException):
        raise HandlerRefused("the handler returned False, NotImplemented or an exception: raise one instead")


def check_awaitable(answer: Any) -> Any:
    """The answer of an AsyncConsumer's handler, if it can be awaited. Raises WrongAnswer."""
    if not inspect.isawaitable(answer):
        _drop(answer)
        raise WrongAnswer(
            f"the handler returned a {type(answer).__name__}, which cannot be awaited: {_WRITE[True]}. "
            "Its event is not acknowledged and comes again"
        )
    return answer


def check_known(answer: object) -> bool:
    """What a store's `has` says. Raises WrongAnswer unless it is true or false: a coroutine would count as true."""
    if isinstance(answer, bool | int):
        return bool(answer)
    _drop(answer)
    raise WrongAnswer(f"dedup: has() answered with a {type(answer).__name__}: it must be True or False")


def check_added(answer: object) -> None:
    """Raise WrongAnswer when a store's `add` has not happened yet."""
    if inspect.isawaitable(answer):
        _drop(answer)
        raise WrongAnswer(f"dedup: add() answered with a {type(answer).__name__}, which nobody would await")


def _drop(answer: Any) -> None:
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns that it was never awaited


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
