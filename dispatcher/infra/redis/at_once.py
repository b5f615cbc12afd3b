"""Asks several servers the same at once, and waits no longer than it takes to know."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import signature
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

# Or redis-py looks its own version up on the disk for each connection, to tell it to the server, which nobody asked.
UNNAMED: Mapping[str, Any] = {"driver_info": None} if "driver_info" in signature(Redis.__init__).parameters else {}
GRACE_S = 0.2  # how long others may take, once one has answered


async def ask_at_once(
    asks: Iterable[Callable[[], Awaitable[None]]], *, some: Callable[[], bool], enough: Callable[[], bool]
) -> None:
    """Run them all; each keeps its answer itself and raises nothing.

    Returns once all have ended, `enough()` have answered, or a moment after `some()` have.
    """
    known = anyio.Event()

    async def one(ask: Callable[[], Awaitable[None]]) -> None:
        await ask()
        if enough():
            known.set()

    async with anyio.create_task_group() as asking:

        async def every() -> None:
            async with anyio.create_task_group() as each:
                for ask in asks:
                    each.start_soon(one, ask, name="asked at once")
            known.set()

        asking.start_soon(every, name="all asked at once")
        while not known.is_set():
            late = some()
            with anyio.move_on_after(GRACE_S):
                await known.wait()
            if late:
                break
        asking.cancel_scope.cancel()


def tls_failure(error: Exception) -> str | None:
    """Why TLS failed, by OpenSSL's name for it in what redis-py says; None: it did not."""
    named = re.search(r"\[SSL: (\w+)\]", str(error))
    return named and named[1]


def asking_options(timeout_s: float, tls: Mapping[str, Any] | None) -> dict[str, Any]:
    """How redis-py connects for one question: it never asks twice."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        **UNNAMED,
        **({} if tls is None else {"ssl": True, **tls}),
    }
