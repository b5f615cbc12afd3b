"""The one place that polls: a condition with a deadline, and what was seen last when it does not come true."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_EVERY_S = 0.02


class NeverCameTrue(AssertionError):
    """A condition did not come true before its deadline."""


async def until(look: Callable[[], Awaitable[T]], what: str, timeout_s: float = 50.0) -> T:
    """Look again and again until the answer is true; returns it. Raises NeverCameTrue with the last answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = await look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise NeverCameTrue(f"{what}: not in {timeout_s:g} s; last seen: {answer!r}")
        await asyncio.sleep(LOOK_EVERY_S)


async def pass_time(seconds: float) -> None:
    """Let a fault last so long. Only for faults that are a length of time: a pause of 20 s, an outage of 30 s."""
    await asyncio.sleep(seconds)
